// Sums and maxima over a warp and over a block, in an order that never changes.
#pragma once

namespace qad::cuda {

constexpr unsigned kAllLanes = 0xFFFFFFFF;

template <class T>
__device__ inline T warp_sum(T x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// `scratch`: 32 values of shared memory that no thread may still be reading; two buffers taken in
// turn save the second barrier.
template <class T>
__device__ inline T block_sum(T x, T* scratch) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  T total = scratch[0];
  for (int warp = 1; warp < blockDim.x / 32; ++warp) total += scratch[warp];
  return total;
}

}  // namespace qad::cuda
