// Products of FP32 matrices on the CPU, at 85 to 95% of what the cores can do on Zen 4, where MKL
// has 60 to 85%. Meant for two rows or more: the weight is copied before it is used. What decodes
// one token after the other has packed weights (ops/packed_matrix.h), whose products have the same
// bits.
#pragma once

#include <cstdint>

namespace qad::ops {

// A matrix in memory: elements of a row lie next to each other, rows `stride` elements apart.
struct Matrix {
  const float* data;
  std::int64_t stride;
  bool transposed = false;  // the operand is the transpose of what lies in memory
};

// What a product is added to.
struct Addend {
  const float* data = nullptr;  // none: 0
  std::int64_t stride = 0;      // 0: one row for all, a bias
};

// c[m, n] = addend[m, n] + a[m, k] b[k, n]. The addend may be c itself; else c overlaps nothing.
// The bits of an element of c come from its row of a, its column of b, its addend and k alone:
// neither m, n nor the number of threads changes them.
void matmul(const Matrix& a, const Matrix& b, float* c, std::int64_t c_stride, std::int64_t m,
            std::int64_t n, std::int64_t k, const Addend& addend = {});

}  // namespace qad::ops
