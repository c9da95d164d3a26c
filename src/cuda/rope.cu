// Rotary position embedding on half-split pairs. Products and sums round one by one as on the CPU,
// so FP32 results have its bits.
#include <math_constants.h>

#include "cuda/early.cuh"
#include "cuda/launch.h"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kThreads = 256;

// A thread takes N pairs of one head. Heads from `rotated` on (the values) are copied.
template <class T, int N>
__global__ void rope_kernel(const T* x, const float* cos, const float* sin,
                            const std::int64_t* positions, std::int64_t table_rows, int heads,
                            int half, int rotated, float sign, T* y) {
  let_next_begin();
  wait_for_previous();
  const std::int64_t token = blockIdx.x;
  const int pair = (blockIdx.y * kThreads + threadIdx.x) * N, head = pair / half, i = pair % half;
  if (head >= heads) return;
  const std::int64_t at = (token * heads + head) * 2 * half + i;
  float a[N], b[N];
  load(x + at, a);
  load(x + at + half, b);
  if (head < rotated) {
    const std::int64_t position = positions[token];
    const bool known = position >= 0 && position < table_rows;
    const std::int64_t angle = known ? position * half + i : 0;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float c = known ? cos[angle + k] : CUDART_NAN_F;
      const float s = known ? sign * sin[angle + k] : CUDART_NAN_F;
      const float first = __fsub_rn(__fmul_rn(a[k], c), __fmul_rn(b[k], s));
      b[k] = __fadd_rn(__fmul_rn(b[k], c), __fmul_rn(a[k], s));
      a[k] = first;
    }
  }
  store(y + at, a);
  store(y + at + half, b);
}

}  // namespace

void rope(Type type, const void* x, const float* cos, const float* sin,
          const std::int64_t* positions, std::int64_t table_rows, std::int64_t tokens,
          std::int64_t heads, std::int64_t dim, std::int64_t rotated, float sign, void* y,
          cudaStream_t stream) {
  const std::int64_t half = dim / 2;
  if (tokens * heads * half == 0) return;
  for_vectors(
      type, half,
      [&]<class T, int N>() {
        const dim3 grid(static_cast<unsigned>(tokens),
                        static_cast<unsigned>(blocks_for(heads * half, kThreads * N)));
        launch(tokens <= kMostEarlyRows, rope_kernel<T, N>, grid, kThreads, stream,
               static_cast<const T*>(x), cos, sin, positions, table_rows, static_cast<int>(heads),
               static_cast<int>(half), static_cast<int>(rotated), sign, static_cast<T*>(y));
      },
      x, y);
}

}  // namespace qad::cuda
