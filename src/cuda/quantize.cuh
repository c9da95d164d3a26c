// Fake quantisation at the end of an activation's kernel, which counts what is clipped.
#pragma once

#include "cuda/launch.h"
#include "cuda/nvfp4_block.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {

// What every kernel that quantises is told.
struct Format {
  float global;
  float limit;  // values beyond it are counted
  unsigned long long* clipped;
};

__host__ __device__ inline Format format_of(float global, std::int64_t* clipped = nullptr) {
  // A little above 2688 * global: the amax that global was made from must not count as clipped.
  const float limit = nvfp4::kE2M1Max * (nvfp4::kE4M3Max * global) * (1.0f + 0x1p-21f);
  return {global, limit, reinterpret_cast<unsigned long long*>(clipped)};
}
inline Format format_of(const Quantization& q) {
  return format_of(q.global, q.clipped);
}

// Adds what a thread counted: at the end of a kernel, since additions to one place take turns.
__device__ inline void add_clipped(const Format& f, unsigned beyond) {
  if (beyond == 0) return;
  const unsigned here = __activemask();
  beyond = __reduce_add_sync(here, beyond);
  if (threadIdx.x % 32 == __ffs(here) - 1) atomicAdd(f.clipped, beyond);
}

// x, part of a block as Block says, becomes its fake quantisation; returns how many of these N are
// clipped.
template <BlockScale kRule, int N>
__device__ unsigned quantize(float (&x)[N], const Format& f) {
  const Block<N> block{x};
  const float largest = block.amax();
  unsigned beyond = 0;
  if (largest > f.limit) {
#pragma unroll
    for (int i = 0; i < N; ++i) beyond += fabsf(x[i]) > f.limit;
  }
  float y[N];
  block.template fake_quantize<kRule>(f.global, largest, y);
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = y[i];
  return beyond;
}

}  // namespace qad::cuda
