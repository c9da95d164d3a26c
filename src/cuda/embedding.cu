// Embedding: rows of a table by token id, and their gradient without atomics, so that it has the
// same bits every time.
#include <cuda_pipeline.h>
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

// One row of blocks for the first of each run of equal ids: it adds the gradients of all of them,
// in order. One word may be a tenth of a text: many rows are then on their way at once, and few
// columns in a thread.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    embedding_backward_kernel(const T* grad, const std::int32_t* sorted, const std::int64_t* order,
                              std::int64_t rows, int cols, std::int64_t tokens, bool fresh,
                              float* out) {
  const std::int64_t first = blockIdx.x, id = sorted[first];
  if ((first > 0 && sorted[first - 1] == id) || id < 0 || id >= rows) return;
  // The end of the run: most are short, so steps begin small.
  std::int64_t last = first + 1, step = 1;
  while (last + step <= tokens && sorted[last + step - 1] == id) last += step, step *= 2;
  for (; step > 0; step /= 2)
    if (last + step <= tokens && sorted[last + step - 1] == id) last += step;
  const int i = (blockIdx.y * kThreads + threadIdx.x) * N;
  if (i >= cols) return;
  float sum[N] = {};
  if (!fresh)
    for (int k = 0; k < N; ++k) sum[k] = out[id * cols + i + k];
  const auto add = [&](Raw<T, N> raw) {
    float x[N];
    unpack<T>(raw, x);
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] += x[k];
  };
  const auto place = [&](std::int64_t t) {
    return reinterpret_cast<const Raw<T, N>*>(grad + order[t] * cols + i);
  };
  std::int64_t t = first;
  if constexpr (sizeof(Raw<T, N>) >= 4) {
    // Registers would do, but the compiler lets sums wait for each load rather than hold so many.
    constexpr int kAhead = 32;
    __shared__ Raw<T, N> staged[kAhead][kThreads];  // a column belongs to one thread
    for (; t + kAhead <= last; t += kAhead) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j)
        __pipeline_memcpy_async(&staged[j][threadIdx.x], place(t + j), sizeof(Raw<T, N>));
      __pipeline_commit();
      __pipeline_wait_prior(0);
#pragma unroll
      for (int j = 0; j < kAhead; ++j) add(staged[j][threadIdx.x]);
    }
  }
#pragma unroll 4
  for (; t < last; ++t) add(*place(t));
  store(out + id * cols + i, sum);
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

void embedding_backward(Type type, const void* grad, const std::int32_t* sorted,
                        const std::int64_t* order, std::int64_t rows, std::int64_t cols,
                        std::int64_t tokens, bool fresh, float* out, cudaStream_t stream) {
  if (tokens * cols == 0) return;
  for_type(type, [&]<class T>() {
    const auto launch = [&]<int N>() {
      const dim3 grid(static_cast<unsigned>(tokens),
                      static_cast<unsigned>(blocks_for(cols, kThreads * N)));
      embedding_backward_kernel<T, N>
          <<<grid, kThreads, 0, stream>>>(static_cast<const T*>(grad), sorted, order, rows,
                                          static_cast<int>(cols), tokens, fresh, out);
    };
    const auto places =
        reinterpret_cast<std::uintptr_t>(grad) | reinterpret_cast<std::uintptr_t>(out);
    if (cols % 2 == 0 && places % 8 == 0)
      launch.template operator()<2>();
    else
      launch.template operator()<1>();
  });
}

}  // namespace qad::cuda
