// SwiGLU on the joined gate and up projections: elementwise, one pass each way.
#include "cuda/launch.h"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

// One thread a vector; blocks in y are rows.
template <class T, int N>
__global__ void swiglu_kernel(const T* gate_up, int cols, T* y) {
  const std::int64_t row = blockIdx.x;
  const int i = (blockIdx.y * kThreads + threadIdx.x) * N;
  if (i >= cols) return;
  float gate[N], up[N];
  load(gate_up + row * 2 * cols + i, gate);
  load(gate_up + row * 2 * cols + cols + i, up);
#pragma unroll
  for (int k = 0; k < N; ++k) gate[k] = gate[k] * sigmoid(gate[k]) * up[k];
  store(y + row * cols + i, gate);
}

// With s = sigmoid(g): d gate = dy up s (1 + g (1 - s)), d up = dy g s.
template <class T, int N>
__global__ void swiglu_backward_kernel(const T* grad, const T* gate_up, int cols, T* out) {
  const std::int64_t row = blockIdx.x;
  const int i = (blockIdx.y * kThreads + threadIdx.x) * N;
  if (i >= cols) return;
  float dy[N], gate[N], up[N];
  load(grad + row * cols + i, dy);
  load(gate_up + row * 2 * cols + i, gate);
  load(gate_up + row * 2 * cols + cols + i, up);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float s = sigmoid(gate[k]), ds = dy[k] * s;
    const float d_gate = ds * up[k] * (1.0f + gate[k] * (1.0f - s));
    up[k] = ds * gate[k];
    gate[k] = d_gate;
  }
  store(out + row * 2 * cols + i, gate);
  store(out + row * 2 * cols + cols + i, up);
}

dim3 grid(std::int64_t rows, std::int64_t cols, int width) {
  return dim3(static_cast<unsigned>(rows),
              static_cast<unsigned>(blocks_for(cols, std::int64_t{kThreads} * width)));
}

}  // namespace

void swiglu(Type type, const void* gate_up, std::int64_t rows, std::int64_t cols, void* y,
            cudaStream_t stream) {
  if (rows * cols == 0) return;
  for_vectors(
      type, cols,
      [&]<class T, int N>() {
        swiglu_kernel<T, N><<<grid(rows, cols, N), kThreads, 0, stream>>>(
            static_cast<const T*>(gate_up), static_cast<int>(cols), static_cast<T*>(y));
      },
      gate_up, y);
}

void swiglu_backward(Type type, const void* grad, const void* gate_up, std::int64_t rows,
                     std::int64_t cols, void* dgate_up, cudaStream_t stream) {
  if (rows * cols == 0) return;
  for_vectors(
      type, cols,
      [&]<class T, int N>() {
        swiglu_backward_kernel<T, N><<<grid(rows, cols, N), kThreads, 0, stream>>>(
            static_cast<const T*>(grad), static_cast<const T*>(gate_up), static_cast<int>(cols),
            static_cast<T*>(dgate_up));
      },
      grad, gate_up, dgate_up);
}

}  // namespace qad::cuda
