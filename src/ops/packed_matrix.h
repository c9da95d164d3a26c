// A weight as decoding reads it: in the checkpoint's own precision, unpacked in the product. NVFP4
// takes 4.5 bits a value, BF16 16; a token's speed is that of reading them.
//
// Sixteen rows lie side by side, so that a vector holds as many sums, each in the order in which
// matmul adds: a product has the bits of matmul on the dequantised weight.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/matmul.h"

namespace qad::ops {

inline constexpr std::int64_t kSideBySide = 16;  // rows

enum class Stored { fp32, bf16, nvfp4 };

// Values of one row in a word: 1 in FP32, 2 in BF16, 8 codes of NVFP4; the first in the low bits.
constexpr std::int64_t values_per_word(Stored stored) {
  return stored == Stored::fp32 ? 1 : stored == Stored::bf16 ? 2 : 8;
}

// A weight [rows, cols]. Row r is lane r % 16 of group r / 16, of which there are groups(); what
// lies behind the last row or column is zero.
struct PackedMatrix {
  Stored stored = Stored::fp32;
  std::int64_t rows = 0, cols = 0;       // NVFP4: cols is a multiple of 16
  const std::uint32_t* words = nullptr;  // [groups, words_per_row, 16]
  const std::uint8_t* scales = nullptr;  // NVFP4: E4M3 [groups, cols / 16, 16]
  // NVFP4: rows before ends[i], and not before ends[i - 1], have the global scale globals[i].
  std::vector<std::int64_t> ends;
  std::vector<float> globals;

  std::int64_t groups() const { return (rows + kSideBySide - 1) / kSideBySide; }
  std::int64_t words_per_row() const {
    return (cols + values_per_word(stored) - 1) / values_per_word(stored);
  }
};

// c[m, rows] = bias + a[m, cols] w^T, where bias is [rows] or null. The bits of an element are
// those of matmul with the dequantised weight, for one row of `a` as for many, on any number of
// threads.
void matmul_packed(const Matrix& a, const PackedMatrix& w, float* c, std::int64_t c_stride,
                   std::int64_t m, const float* bias);

}  // namespace qad::ops
