// How fast this machine writes texts with a model of a given shape: random BF16 weights, random
// prompts, greedy, in the engine that `qad generate` and `qad serve` use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qad::recipe {

struct DecodeBenchOptions {
  std::string model, device;  // bench_config() knows the model
  std::int64_t texts = 1, prompt_tokens = 128, new_tokens = 128;
  std::int64_t rounds = 3;
  bool cuda_graphs = true;
};

struct DecodeBenchResult {
  std::string machine;
  std::vector<double> seconds;   // of each round: prompts read and texts written
  double first_seconds = 0;      // of a first round, in which kernels are chosen and recorded
  double read_seconds = 0;       // of a round that writes one token a text; median
  double tokens_per_second = 0;  // new ones, of the median round
};

DecodeBenchResult bench_decode(const DecodeBenchOptions& options);

}  // namespace qad::recipe
