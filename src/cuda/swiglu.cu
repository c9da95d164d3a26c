// SwiGLU on the joined gate and up projections, quantised if wanted: elementwise, one pass each
// way.
#include "cuda/early.cuh"
#include "cuda/quantize.cuh"

namespace qad::cuda {
namespace {

constexpr unsigned kThreads = 256;

// For values in BF16 to 2^-20 or so, far below what their own rounding takes: the plain formula's
// instructions would take as long as the memory does.
template <class T>
__device__ float sigmoid(float x) {
  if constexpr (sizeof(T) == 2)
    return __fdividef(1.0f, 1.0f + __expf(-x));
  else
    return 1.0f / (1.0f + expf(-x));
}

// One thread a vector; blocks in y are rows.
template <class T, int N, bool kQuantize>
__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(const T* gate_up, int cols, Format format, T* y) {
  let_next_begin();
  wait_for_previous();
  const std::int64_t row = blockIdx.x;
  const int i = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (i >= cols) return;
  float gate[N], up[N];
  load(gate_up + row * 2 * cols + i, gate);
  load(gate_up + row * 2 * cols + cols + i, up);
#pragma unroll
  for (int k = 0; k < N; ++k) gate[k] = gate[k] * sigmoid<T>(gate[k]) * up[k];
  if constexpr (kQuantize) {
    round_to<T>(gate);
    add_clipped(format, quantize<nvfp4::BlockScale::max>(gate, format));
  }
  store(y + row * cols + i, gate);
}

// With s = sigmoid(g): d gate = dy up s (1 + g (1 - s)), d up = dy g s.
template <class T, int N>
__global__ void swiglu_backward_kernel(const T* grad, const T* gate_up, int cols, T* out) {
  const std::int64_t row = blockIdx.x;
  const int i = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (i >= cols) return;
  float dy[N], gate[N], up[N];
  load(grad + row * cols + i, dy);
  load(gate_up + row * 2 * cols + i, gate);
  load(gate_up + row * 2 * cols + cols + i, up);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float s = sigmoid<T>(gate[k]), ds = dy[k] * s;
    const float d_gate = ds * up[k] * (1.0f + gate[k] * (1.0f - s));
    up[k] = ds * gate[k];
    gate[k] = d_gate;
  }
  store(out + row * 2 * cols + i, gate);
  store(out + row * 2 * cols + cols + i, up);
}

// A row in as few blocks as it takes, all of them about equally wide.
struct Shape {
  dim3 grid;
  unsigned threads;
};
Shape shape(std::int64_t rows, std::int64_t cols, int width) {
  const std::int64_t vectors = blocks_for(cols, width), blocks = blocks_for(vectors, kThreads);
  return {dim3(static_cast<unsigned>(rows), static_cast<unsigned>(blocks)),
          static_cast<unsigned>(blocks_for(blocks_for(vectors, blocks), 32) * 32)};
}

}  // namespace

void swiglu(Type type, const void* gate_up, std::int64_t rows, std::int64_t cols,
            const Quantization& q, void* y, cudaStream_t stream) {
  if (rows * cols == 0) return;
  bool fused = false;
  for_vectors(
      type, cols,
      [&]<class T, int N>() {
        const auto launch = [&](auto kernel) {
          const Shape s = shape(rows, cols, N);
          kernel<<<s.grid, s.threads, 0, stream>>>(static_cast<const T*>(gate_up),
                                                   static_cast<int>(cols), format_of(q),
                                                   static_cast<T*>(y));
        };
        if constexpr (N > 1)
          fused = q.wanted() && q.rule == nvfp4::BlockScale::max && cols % nvfp4::kBlock == 0;
        if (fused)
          launch(swiglu_kernel<T, N, true>);
        else
          launch(swiglu_kernel<T, N, false>);
      },
      gate_up, y);
  if (q.wanted() && !fused) fake_quantize(type, y, rows, cols, q, y, stream);
}

void swiglu_backward(Type type, const void* grad, const void* gate_up, std::int64_t rows,
                     std::int64_t cols, void* dgate_up, cudaStream_t stream) {
  if (rows * cols == 0) return;
  for_vectors(
      type, cols,
      [&]<class T, int N>() {
        const Shape s = shape(rows, cols, N);
        swiglu_backward_kernel<T, N><<<s.grid, s.threads, 0, stream>>>(
            static_cast<const T*>(grad), static_cast<const T*>(gate_up), static_cast<int>(cols),
            static_cast<T*>(dgate_up));
      },
      grad, gate_up, dgate_up);
}

}  // namespace qad::cuda
