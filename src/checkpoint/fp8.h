// Weights in FP8 (E4M3), as teachers or to be quantised again: one scale a matrix, one a row, or
// one a block of 128 x 128 (DeepSeek's weight_scale_inv). And MXFP4: blocks of 32 under a power of
// two. Opening a folder turns them into tensors that read_f32 understands.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace qad::checkpoint {

// value = e4m3(code) * scale, one rounding to FP32. Kept beside the values for formats that store
// FP8 too; block scales are not among them.
struct Fp8Weight {
  std::span<const std::byte> codes;  // rows * cols, of a mapped file
  std::vector<float> scales;         // 1, or one a row
  std::optional<float> input_scale;  // absent: activations are not quantised, or by the token

  // One scale each, known before: what we compute with as engines do, and write.
  bool quantizes_inputs() const { return scales.size() == 1 && input_scale.has_value(); }
};

// Replaces X.weight F8_E4M3 and its X.weight_scale or X.weight_scale_inv (and X.input_scale) by one
// tensor X.weight of FP32 values with stored_as "F8_E4M3", and X.weight_packed (or X.weight) U8
// with E8M0 scales for each 32 values by one with stored_as "MXFP4". Throws Error naming the tensor
// for parts that are missing or misshapen and for scales that are NaN or not positive.
void adopt_fp8(Checkpoint& c);
void adopt_mxfp4(Checkpoint& c);

}  // namespace qad::checkpoint
