// How fast this machine distils a model of a given shape, beside what its matrix products alone
// would allow. Weights and tokens are random: no checkpoint is needed and no data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "distill/trainer.h"
#include "recipe/operator_times.h"

namespace qad::recipe {

struct BenchOptions {
  std::string model = "smollm2-135m", device = "cpu";  // bench_config() knows the model
  distill::TrainConfig train;                          // steps is the number that is timed
  bool quantize = true;
  bool pack = false;                  // inputs, also where memory is not short
  std::int64_t recompute_layers = 0;  // at least; a GPU short of memory takes more
};

struct BenchResult {
  std::string machine;
  double product_flops = 0;      // of a large product, measured
  double flops_per_token = 0;    // 8 a weight of a product, and attention
  double tokens_per_second = 0;  // median of the steps
  double seconds_per_step = 0;
  std::int64_t micro_sequences = 0;
  bool packs_inputs = false, cuda_graphs = false;
  std::int64_t recomputed_layers = 0;
  distill::MemoryPlan plan;
  double peak_bytes = 0;            // on a GPU
  std::vector<OperatorTime> times;  // of one more step, watched

  double roofline() const { return product_flops / flops_per_token; }  // tokens/s
};

BenchResult bench(const BenchOptions& options);

}  // namespace qad::recipe
