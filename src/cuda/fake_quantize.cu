// NVFP4 fake quantisation of rows (quantize.cuh says how).
#include "cuda/quantize.cuh"

namespace qad::cuda {
namespace {

using nvfp4::BlockScale;

constexpr int kThreads = 256;

// Whole blocks one after another at aligned addresses. Where little is computed a thread takes
// several vectors, since one on its way does not fill the memory's pipeline.
template <class T, BlockScale kRule>
constexpr int kVectors = kRule == BlockScale::max ? 2 : 1;

template <class T, BlockScale kRule>
__global__ void __launch_bounds__(kThreads)
    fake_quantize_kernel(const T* x, std::int64_t vectors, Format format, T* y) {
  constexpr int N = kWide<T>, V = kVectors<T, kRule>;
  const std::int64_t first = blockIdx.x * std::int64_t{kThreads * V} + threadIdx.x;
  float v[V][N];
#pragma unroll
  for (int j = 0; j < V; ++j)
    if (first + j * kThreads < vectors) load(x + (first + j * kThreads) * N, v[j]);
  unsigned clipped = 0;
#pragma unroll
  for (int j = 0; j < V; ++j)
    if (first + j * kThreads < vectors) {
      clipped += quantize<kRule>(v[j], format);
      store(y + (first + j * kThreads) * N, v[j]);
    }
  add_clipped(format, clipped);
}

// Any rows: a value a thread, and zeros behind a row's end.
template <class T, BlockScale kRule>
__global__ void __launch_bounds__(kThreads)
    fake_quantize_tails_kernel(const T* x, std::int64_t rows, std::int64_t cols, Format format,
                               T* y) {
  const std::int64_t per_row = (cols + nvfp4::kBlock - 1) / nvfp4::kBlock * nvfp4::kBlock;
  const std::int64_t index = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (index >= rows * per_row) return;  // the 16 threads of a block together
  const std::int64_t row = index / per_row, col = index % per_row, at = row * cols + col;
  float v[1] = {col < cols ? to_float(x[at]) : 0.0f};
  const unsigned clipped = quantize<kRule>(v, format);
  if (col < cols) store(y + at, v[0]);
  add_clipped(format, clipped);
}

}  // namespace

void fake_quantize(Type type, const void* x, std::int64_t rows, std::int64_t cols,
                   const Quantization& q, void* y, cudaStream_t stream) {
  if (rows * cols == 0) return;
  const Format format = format_of(q);
  const bool aligned =
      (reinterpret_cast<std::uintptr_t>(x) | reinterpret_cast<std::uintptr_t>(y)) % 16 == 0;
  for_type(type, [&]<class T>() {
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(y);
    const auto launch = [&]<BlockScale kRule>() {
      if (aligned && cols % nvfp4::kBlock == 0) {
        const std::int64_t vectors = rows * cols / kWide<T>;
        const std::int64_t blocks = blocks_for(vectors, kThreads * kVectors<T, kRule>);
        fake_quantize_kernel<T, kRule>
            <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(from, vectors, format, to);
      } else {
        const std::int64_t threads = rows * nvfp4::blocks_per_row(cols) * nvfp4::kBlock;
        fake_quantize_tails_kernel<T, kRule>
            <<<static_cast<unsigned>(blocks_for(threads, kThreads)), kThreads, 0, stream>>>(
                from, rows, cols, format, to);
      }
    };
    if (q.rule == BlockScale::max)
      launch.template operator()<BlockScale::max>();
    else if (q.rule == BlockScale::mse)
      launch.template operator()<BlockScale::mse>();
    else
      launch.template operator()<BlockScale::four_over_six>();
  });
}

}  // namespace qad::cuda
