// What linear layers of few rows share: tensor cores take x as their 16 rows and the weight as
// their 8 columns, so that one row of x costs what 16 do; where in a product a column stands is the
// same for both, so each thread reads columns as they lie. A block takes 8 outputs, its warps share
// their columns.
#pragma once

#include "cuda/vector.cuh"

namespace qad::cuda {

constexpr int kFewRows = 16;
constexpr int kFewOutputs = 8;  // of a block
constexpr int kFewWarps = 8;

// sums [16 rows, 8 outputs] += a [16, 16] b [16, 8]; PTX ISA, "Matrix Fragments for
// mma.m16n8k16 with floating point type".
__device__ inline void add_product(float (&sums)[4], unsigned a0, unsigned a1, unsigned a2,
                                   unsigned a3, unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The warps' sums of a block's outputs become y, whose first output is `first`.
__device__ inline void store_sums(const float (&sums)[4], const __nv_bfloat16* bias, int rows,
                                  int first, int outputs, __nv_bfloat16* y) {
  __shared__ float parts[kFewWarps][kFewRows][kFewOutputs];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) parts[warp][lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = sums[i];
  __syncthreads();
  for (int i = threadIdx.x; i < rows * kFewOutputs; i += blockDim.x) {
    const int row = i / kFewOutputs, output = first + i % kFewOutputs;
    if (output >= outputs) continue;
    float sum = bias == nullptr ? 0.0f : to_float(bias[output]);
#pragma unroll
    for (int p = 0; p < kFewWarps; ++p) sum += parts[p][row][i % kFewOutputs];
    store(y + static_cast<std::int64_t>(row) * outputs + output, sum);
  }
}

}  // namespace qad::cuda
