// Packed weights as tensors: what models that only compute forward hold instead of a value. A CPU
// has all of PackedMatrix's precisions, a GPU NVFP4; no gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "ops/packed_matrix.h"

namespace qad::ops {

struct PackedWeight {
  PackedMatrix matrix;  // of what follows; without its pointers on a GPU
  at::Tensor words;   // int32 [groups, words of a row, 16]; on a GPU codes, uint8 [rows, cols / 2]
  at::Tensor scales;  // for NVFP4: uint8 [groups, cols / 16, 16]; on a GPU [rows, cols / 16]

  std::int64_t nbytes() const;
};

// Rows that share a global scale, one behind the other.
struct GlobalScale {
  std::int64_t rows;
  float value;
};

// Room, each row of which is to be put. `globals` cover all rows of an NVFP4 weight; of others
// there are none. Throws Error for NVFP4 and columns that are no multiple of 16, and for a GPU and
// anything else than NVFP4.
PackedWeight make_packed(Stored stored, std::int64_t rows, std::int64_t cols,
                         const std::vector<GlobalScale>& globals = {},
                         const at::Device& device = at::kCPU);
// Puts rows [first, first + rows) in place; different rows may be put at once by several threads.
// Values that are exact in BF16 if the weight is; codes and scales as nvfp4::quantize lays them
// out.
void put_rows(const PackedWeight& w, std::int64_t first, std::int64_t rows, const float* values);
void put_rows(const PackedWeight& w, std::int64_t first, std::int64_t rows,
              const std::uint8_t* codes, const std::uint8_t* scales);

// x W^T + b: x [T, cols], bias [rows] or undefined -> [T, rows]. On a CPU the bits of ops::linear
// on the dequantised weight; on a GPU a product with that weight's values in the type of x.
at::Tensor linear(const at::Tensor& x, const PackedWeight& w, const at::Tensor& bias = {});
// The values of an NVFP4 weight on a GPU, [rows, cols].
at::Tensor unpacked(const PackedWeight& w, at::ScalarType type);
// Rows of an FP32 or BF16 weight for ids int64 [T] -> [T, cols].
at::Tensor embedding(const PackedWeight& w, const at::Tensor& ids);

}  // namespace qad::ops
