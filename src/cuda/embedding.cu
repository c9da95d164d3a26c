// Embedding: rows of a table by token id, and their gradient without atomics, so that it has the
// same bits every time.
#include <math_constants.h>

#include "cuda/launch.h"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kThreads = 128;

template <class T, int N>
__global__ void embedding_kernel(const T* weight, const std::int64_t* ids, std::int64_t rows,
                                 int cols, T* out) {
  const std::int64_t id = ids[blockIdx.x];
  out += blockIdx.x * static_cast<std::int64_t>(cols);
  const bool known = id >= 0 && id < rows;
  for (int i = threadIdx.x * N; i < cols; i += kThreads * N) {
    float x[N];
    if (known)
      load(weight + id * cols + i, x);
    else
      for (int k = 0; k < N; ++k) x[k] = CUDART_NAN_F;
    store(out + i, x);
  }
}

// One block for the first of each run of equal ids: it adds the gradients of all of them, in order.
// One word may be a tenth of a text, so several rows are on their way at once.
template <class T, int N>
__global__ void embedding_backward_kernel(const T* grad, const std::int64_t* sorted,
                                          const std::int64_t* order, std::int64_t rows, int cols,
                                          std::int64_t tokens, float* out) {
  constexpr int kAhead = 16;
  const std::int64_t first = blockIdx.x, id = sorted[first];
  if ((first > 0 && sorted[first - 1] == id) || id < 0 || id >= rows) return;
  std::int64_t last = first + 1, beyond = tokens;  // the end of the run lies between them
  while (last < beyond) {
    const std::int64_t middle = (last + beyond) / 2;
    sorted[middle] == id ? last = middle + 1 : beyond = middle;
  }
  for (int i = threadIdx.x * N; i < cols; i += kThreads * N) {
    float sum[N] = {};
    for (std::int64_t t = first; t < last; t += kAhead) {
      float x[kAhead][N];
#pragma unroll
      for (int j = 0; j < kAhead; ++j)  // loads without a branch do not wait for each other
        load(grad + order[min(t + j, last - 1)] * cols + i, x[j]);
#pragma unroll
      for (int j = 0; j < kAhead; ++j)
#pragma unroll
        for (int k = 0; k < N; ++k) sum[k] += t + j < last ? x[j][k] : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < N; ++k) out[id * cols + i + k] = sum[k];
  }
}

}  // namespace

void embedding(Type type, const void* weight, const std::int64_t* ids, std::int64_t rows,
               std::int64_t cols, std::int64_t tokens, void* out, cudaStream_t stream) {
  if (tokens * cols == 0) return;
  for_vectors(
      type, cols,
      [&]<class T, int N>() {
        embedding_kernel<T, N><<<static_cast<unsigned>(tokens), kThreads, 0, stream>>>(
            static_cast<const T*>(weight), ids, rows, static_cast<int>(cols), static_cast<T*>(out));
      },
      weight, out);
}

void embedding_backward(Type type, const void* grad, const std::int64_t* sorted,
                        const std::int64_t* order, std::int64_t rows, std::int64_t cols,
                        std::int64_t tokens, float* out, cudaStream_t stream) {
  if (tokens * cols == 0) return;
  for_vectors(
      type, cols,
      [&]<class T, int N>() {
        embedding_backward_kernel<T, N><<<static_cast<unsigned>(tokens), kThreads, 0, stream>>>(
            static_cast<const T*>(grad), sorted, order, rows, static_cast<int>(cols), tokens, out);
      },
      grad);
}

}  // namespace qad::cuda
