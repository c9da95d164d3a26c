// Root-mean-square norm: a block a row forward; backward a fixed number of blocks, each of which
// sums the weight's gradient over its rows in shared memory.
#include "cuda/launch.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

template <class T, int N>
__global__ void rms_norm_kernel(const T* x, const T* weight, float eps, int cols, T* y,
                                float* inverse) {
  __shared__ float scratch[32];
  x += blockIdx.x * static_cast<std::int64_t>(cols);
  y += blockIdx.x * static_cast<std::int64_t>(cols);
  float squares = 0;
  for (int i = threadIdx.x * N; i < cols; i += blockDim.x * N) {
    float v[N];
    load(x + i, v);
#pragma unroll
    for (int k = 0; k < N; ++k) squares += v[k] * v[k];
  }
  const float r = 1.0f / sqrtf(block_sum(squares, scratch) / static_cast<float>(cols) + eps);
  if (threadIdx.x == 0) inverse[blockIdx.x] = r;
  for (int i = threadIdx.x * N; i < cols; i += blockDim.x * N) {
    float v[N], w[N];
    load(x + i, v);  // from the first-level cache, where the loop above left it
    load(weight + i, w);
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] = w[k] * (v[k] * r);
    store(y + i, v);
  }
}

// With r = 1/rms and h = grad * w: dx = r h - x r^3 mean(h x), dw = sum over rows of grad * x * r.
template <class T, int N>
__global__ void rms_norm_backward_kernel(const T* grad, const T* x, const T* weight,
                                         const float* inverse, std::int64_t rows, int cols, T* dx,
                                         float* partial) {
  extern __shared__ float dw[];  // a column belongs to one thread
  __shared__ float scratch[2][32];
  for (int i = threadIdx.x * N; i < cols; i += blockDim.x * N)
    for (int k = 0; k < N; ++k) dw[i + k] = 0;
  int turn = 0;
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
    const T *g = grad + row * cols, *a = x + row * cols;
    const float r = inverse[row];
    float products = 0;
    for (int i = threadIdx.x * N; i < cols; i += blockDim.x * N) {
      float gv[N], av[N], w[N];
      load(g + i, gv);
      load(a + i, av);
      load(weight + i, w);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float gx = gv[k] * av[k];
        products += gx * w[k];
        dw[i + k] += gx * r;
      }
    }
    const float c = r * r * (block_sum(products, scratch[turn]) / static_cast<float>(cols));
    for (int i = threadIdx.x * N; i < cols; i += blockDim.x * N) {
      float gv[N], av[N], w[N];
      load(g + i, gv);
      load(a + i, av);
      load(weight + i, w);
#pragma unroll
      for (int k = 0; k < N; ++k) gv[k] = r * (gv[k] * w[k] - c * av[k]);
      store(dx + row * cols + i, gv);
    }
  }
  for (int i = threadIdx.x * N; i < cols; i += blockDim.x * N)
    for (int k = 0; k < N; ++k)
      partial[blockIdx.x * static_cast<std::int64_t>(cols) + i + k] = dw[i + k];
}

// One vector a thread up to 512 threads.
unsigned threads_for(std::int64_t cols, int width) {
  const std::int64_t warps = blocks_for(cols, std::int64_t{32} * width);
  return static_cast<unsigned>(32 * (warps < 1 ? 1 : warps > 16 ? 16 : warps));
}

}  // namespace

void rms_norm(Type type, const void* x, const void* weight, float eps, std::int64_t rows,
              std::int64_t cols, void* y, float* inverse, cudaStream_t stream) {
  if (rows == 0) return;
  for_vectors(
      type, cols,
      [&]<class T, int N>() {
        rms_norm_kernel<T, N><<<static_cast<unsigned>(rows), threads_for(cols, N), 0, stream>>>(
            static_cast<const T*>(x), static_cast<const T*>(weight), eps, static_cast<int>(cols),
            static_cast<T*>(y), inverse);
      },
      x, weight, y);
}

void rms_norm_backward(Type type, const void* grad, const void* x, const void* weight,
                       const float* inverse, std::int64_t rows, std::int64_t cols, void* dx,
                       float* dweight, std::int64_t partials, cudaStream_t stream) {
  if (partials == 0) return;
  const int shared = static_cast<int>(cols * sizeof(float));
  for_vectors(
      type, cols,
      [&]<class T, int N>() {
        if (shared > 40 * 1024)  // more than every kernel may take unasked
          cudaFuncSetAttribute(rms_norm_backward_kernel<T, N>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
        rms_norm_backward_kernel<T, N>
            <<<static_cast<unsigned>(partials), threads_for(cols, N), shared, stream>>>(
                static_cast<const T*>(grad), static_cast<const T*>(x),
                static_cast<const T*>(weight), inverse, rows, static_cast<int>(cols),
                static_cast<T*>(dx), dweight);
      },
      grad, x, weight, dx);
}

}  // namespace qad::cuda
