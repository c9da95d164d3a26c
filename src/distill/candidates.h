// The masters that did best on the validation data, for the report's choice of a checkpoint: on
// disk under the state folder, or in memory without one.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/json.h"
#include "distill/state.h"
#include "distill/weights.h"

namespace qad::distill {

class Candidates {
 public:
  Candidates(fs::path folder, std::int64_t keep) : folder_(std::move(folder)), keep_(keep) {}

  // Keeps the present masters when `v` is among the best, at the cost of the worst.
  void consider(const Validation& v, const Weights& weights);
  // Puts the masters kept at `step` into `weights`; throws Error when that step was not kept.
  void restore(std::int64_t step, Weights& weights) const;

  const std::vector<Validation>& best() const { return best_; }  // best first

  // A resume point names the candidates of its moment, so those stay on disk until the next one.
  void resumed(std::vector<Validation> best);
  void saved();

 private:
  struct Kept {
    std::vector<at::Tensor> masters;  // of Weights::master_state()
    std::vector<float> globals;
  };
  fs::path folder_of(std::int64_t step) const;

  fs::path folder_;
  std::int64_t keep_;
  std::vector<Validation> best_, pinned_;
  std::map<std::int64_t, Kept> memory_;
};

}  // namespace qad::distill
