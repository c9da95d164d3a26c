// Two checkpoints compared weight by weight, whatever their formats.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace qad::checkpoint {

struct WeightDifference {
  std::string name;  // a weight, or a scale that is not part of its values ("X.input_scale")
  // "equal", "values", "only in A", "only in B", or the two shapes.
  std::string kind;
  double max_error = 0;       // largest |a - b|
  double error2 = 0, a2 = 0;  // sums of (a - b)^2 and a^2

  double snr_db() const;  // 10 log10(a2 / error2); infinity where nothing differs
};

// In the order of names. Values are compared in FP32, NVFP4's and FP8's after decoding; scales of
// inputs and of a cache are compared too. Memory: two tensors in FP32. `progress` is called after
// each weight with the number done and of all.
std::vector<WeightDifference> differences(
    const Checkpoint& a, const Checkpoint& b,
    const std::function<void(std::size_t done, std::size_t all)>& progress = {});

}  // namespace qad::checkpoint
