// How the norm's kernels share rows among threads, and what takes rows that fit no registers.
#pragma once

#include <algorithm>

#include "cuda/launch.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {

constexpr int kMaxRowThreads = 512;

// Threads that share a row, and vectors of 16 bytes that each of them holds.
struct RowShape {
  bool fits;
  unsigned threads;
  int vectors;
  // Rows that a block of the backward pass takes at a time.
  unsigned rows() const { return std::max(1u, 256 / threads); }
};

inline RowShape row_shape(Type type, std::int64_t cols) {
  const int width = type == Type::f32 ? kWide<float> : kWide<__nv_bfloat16>;
  const std::int64_t vectors = blocks_for(cols, width),
                     warps = std::max<std::int64_t>(1, blocks_for(vectors, 32 * 4));
  return {cols > 0 && cols % width == 0 && 32 * warps <= kMaxRowThreads,
          static_cast<unsigned>(32 * warps), static_cast<int>(blocks_for(vectors, 32 * warps))};
}

template <class... Pointers>
bool aligned(const Pointers*... pointers) {
  return ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
}

// Calls f(j, i) for each of a thread's vectors, j of V, that begins at a column i.
template <int N, int V, class F>
__device__ inline void for_vectors_of(int cols, F&& f) {
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const int i = (j * blockDim.x + threadIdx.x) * N;
    if (i < cols) f(j, i);
  }
}

// Zeros where the row has ended.
template <class T, int N, int V>
__device__ inline void load_row(const T* row, int cols, float (&v)[V][N]) {
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const int i = (j * blockDim.x + threadIdx.x) * N;
    if (i < cols) {
      load(row + i, v[j]);
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) v[j][k] = 0;
    }
  }
}

template <class T, int N, int V>
__device__ inline void load_raw_row(const T* row, int cols, Raw<T, N> (&v)[V]) {
  for_vectors_of<N, V>(cols,
                       [&](int j, int i) { v[j] = *reinterpret_cast<const Raw<T, N>*>(row + i); });
}

// Over the threads of a row, in an order that never changes. Unless a warp is a row, all of the
// block must call it; `scratch` as block_sum has it.
__device__ inline float row_sum(float x, float* scratch) {
  x = warp_sum(x);
  if (blockDim.x == 32) return x;
  const int warps = blockDim.x / 32, first = threadIdx.y * warps;
  if (threadIdx.x % 32 == 0) scratch[first + threadIdx.x / 32] = x;
  __syncthreads();
  float total = scratch[first];
  for (int warp = 1; warp < warps; ++warp) total += scratch[first + warp];
  return total;
}

// A block a row, of any length and at any address.
template <class T>
__global__ void rms_norm_long_kernel(const T* x, const T* delta, const T* weight, float eps,
                                     int cols, T* sum, T* y, float* inverse) {
  __shared__ float scratch[32];
  const std::int64_t at = blockIdx.x * static_cast<std::int64_t>(cols);
  const auto value = [&](int i) {
    float v[1] = {to_float(x[at + i])};
    if (delta != nullptr) v[0] = __fadd_rn(v[0], to_float(delta[at + i]));
    round_to<T>(v);
    return v[0];
  };
  float squares = 0;
  for (int i = threadIdx.x; i < cols; i += blockDim.x) {
    const float v = value(i);
    if (delta != nullptr) store(sum + at + i, v);
    squares = __fmaf_rn(v, v, squares);
  }
  const float r = 1.0f / sqrtf(block_sum(squares, scratch) / static_cast<float>(cols) + eps);
  if (threadIdx.x == 0) inverse[blockIdx.x] = r;
  for (int i = threadIdx.x; i < cols; i += blockDim.x)
    store(y + at + i, __fmul_rn(to_float(weight[i]), __fmul_rn(value(i), r)));
}

// The weight's gradient is summed in shared memory, where a column belongs to one thread.
template <class T>
__global__ void rms_norm_backward_long_kernel(const T* grad, const T* beside, const T* x,
                                              const T* weight, const float* inverse,
                                              std::int64_t rows, int cols, T* dx, float* partial) {
  extern __shared__ float dw[];
  __shared__ float scratch[2][32];
  for (int i = threadIdx.x; i < cols; i += blockDim.x) dw[i] = 0;
  int turn = 0;
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
    const std::int64_t at = row * cols;
    const float r = inverse[row];
    float products = 0;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) {
      const float gx = to_float(grad[at + i]) * to_float(x[at + i]);
      products += gx * to_float(weight[i]);
      dw[i] += gx * r;
    }
    const float c = r * r * (block_sum(products, scratch[turn]) / static_cast<float>(cols));
    for (int i = threadIdx.x; i < cols; i += blockDim.x) {
      const float h = to_float(grad[at + i]) * to_float(weight[i]);
      const float through = r * (h - c * to_float(x[at + i]));
      store(dx + at + i, beside != nullptr ? to_float(beside[at + i]) + through : through);
    }
  }
  for (int i = threadIdx.x; i < cols; i += blockDim.x)
    partial[blockIdx.x * static_cast<std::int64_t>(cols) + i] = dw[i];
}

}  // namespace qad::cuda
