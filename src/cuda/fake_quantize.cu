// NVFP4 fake quantisation of rows, 16 bytes a thread.
#include "cuda/launch.h"
#include "cuda/nvfp4_block.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kThreads = 256;

// `wide`: whole rows of whole blocks at aligned addresses. Threads past the end hold zeros, since
// their neighbours' shuffles need them.
template <class T, BlockScale kRule>
__global__ void __launch_bounds__(kThreads)
    fake_quantize_kernel(const T* x, std::int64_t rows, std::int64_t cols, float global, bool wide,
                         T* y, unsigned long long* clipped) {
  constexpr int N = kWide<T>;
  const std::int64_t per_row = (cols + nvfp4::kBlock - 1) / nvfp4::kBlock * Block<N>::kLanes;
  const std::int64_t index = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  const std::int64_t row = rows == 1 ? 0 : index / per_row;
  const std::int64_t col = (index - row * per_row) * N, at = row * cols + col;
  const std::int64_t left = index < rows * per_row ? cols - col : 0;

  Block<N> block;
  block.mask = ((1u << Block<N>::kLanes) - 1)
               << (threadIdx.x % 32 / Block<N>::kLanes * Block<N>::kLanes);
  if (wide && left > 0)
    load(x + at, block.x);
  else
    for (int i = 0; i < N; ++i) block.x[i] = i < left ? to_float(x[at + i]) : 0.0f;

  // A little above 2688 * global: the amax that global was made from must not count as clipped.
  const float limit =
      __fmul_rn(__fmul_rn(nvfp4::kE2M1Max, __fmul_rn(nvfp4::kE4M3Max, global)), 1.0f + 0x1p-21f);
  unsigned beyond = 0;
  float out[N];
  block.template fake_quantize<kRule>(global, out);
#pragma unroll
  for (int i = 0; i < N; ++i) beyond += fabsf(block.x[i]) > limit;
  if (wide && left > 0)
    store(y + at, out);
  else
    for (int i = 0; i < N; ++i)
      if (i < left) store(y + at + i, out[i]);
  beyond = __reduce_add_sync(0xFFFFFFFF, beyond);
  if (beyond > 0 && threadIdx.x % 32 == 0) atomicAdd(clipped, beyond);
}

}  // namespace

void fake_quantize(Type type, const void* x, std::int64_t rows, std::int64_t cols, float global,
                   BlockScale rule, void* y, std::int64_t* clipped, cudaStream_t stream) {
  if (rows * cols == 0) return;
  if (cols % nvfp4::kBlock == 0) cols *= rows, rows = 1;  // rows follow each other without a gap
  const bool aligned =
      (reinterpret_cast<std::uintptr_t>(x) | reinterpret_cast<std::uintptr_t>(y)) % 16 == 0;
  const bool wide = aligned && cols % nvfp4::kBlock == 0;
  for_type(type, [&]<class T>() {
    const std::int64_t threads = rows * nvfp4::blocks_per_row(cols) * (nvfp4::kBlock / kWide<T>);
    const auto launch = [&](auto run) {
      run<<<static_cast<unsigned>(blocks_for(threads, kThreads)), kThreads, 0, stream>>>(
          static_cast<const T*>(x), rows, cols, global, wide, static_cast<T*>(y),
          reinterpret_cast<unsigned long long*>(clipped));
    };
    if (rule == BlockScale::max)
      launch(fake_quantize_kernel<T, BlockScale::max>);
    else if (rule == BlockScale::mse)
      launch(fake_quantize_kernel<T, BlockScale::mse>);
    else
      launch(fake_quantize_kernel<T, BlockScale::four_over_six>);
  });
}

}  // namespace qad::cuda
