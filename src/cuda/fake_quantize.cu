// NVFP4 fake quantisation with the bits of nvfp4::fake_quantize: the same steps in the same order
// (nvfp4/block.h, nvfp4/scale_search.h). Every operation is an intrinsic that rounds to nearest, so
// that the compiler can neither fuse nor approximate.
#include "cuda/launch.h"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

using nvfp4::BlockScale;

constexpr int kThreads = 256;

// The rounding of a magnitude to a grid with kMantissa bits, steps constant below smallest_normal:
// adding 1.5 * 2^23 steps leaves no bit below a step.
template <int kMantissa>
__device__ float round_to_grid(float magnitude, float smallest_normal) {
  const int exponent = __float_as_int(fmaxf(smallest_normal, magnitude)) & 0x7F800000;
  const float offset = __int_as_float(exponent + (((23 - kMantissa) << 23) | 0x400000));
  return __fsub_rn(__fadd_rn(magnitude, offset), offset);
}

__device__ float round_e2m1(float x) {
  const float magnitude = fabsf(x) > nvfp4::kE2M1Max ? nvfp4::kE2M1Max : fabsf(x);  // keeps NaN
  return copysignf(round_to_grid<1>(magnitude, 1.0f), __fadd_rn(x, 0.0f));
}

__device__ float round_block_scale(float wanted) {
  const float clamped = fminf(fmaxf(wanted, nvfp4::kE4M3Min), nvfp4::kE4M3Max);
  return wanted == 0.0f ? 1.0f : round_to_grid<3>(clamped, 0x1p-6f);
}

__device__ float quantized(float x, float d) {
  return __fmul_rn(round_e2m1(__fdiv_rn(x, d)), d);
}

__device__ float decode_e4m3(int code) {
  return code < 8 ? static_cast<float>(code) * nvfp4::kE4M3Min
                  : __int_as_float((code << 20) + (120 << 23));
}
__device__ int encode_e4m3(float scale) {  // of a value that round_block_scale returned
  return scale < 0x1p-6f ? static_cast<int>(scale * 0x1p9f)
                         : (__float_as_int(scale) >> 20) - (120 << 3);
}

// The power of two at or below amax, inverted.
__device__ float error_unit(float amax) {
  const int exponent = __float_as_int(amax) >> 23;
  return __int_as_float((254 - min(max(exponent, 1), 253)) << 23);
}

// A block of 16 lies in kLanes neighbouring threads, N values each; `mask` names them.
template <int N>
struct Block {
  static constexpr int kLanes = nvfp4::kBlock / N;
  float x[N];
  unsigned mask;

  __device__ float amax() const {
    float largest = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) largest = fmaxf(largest, fabsf(x[i]));
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2)
      largest = fmaxf(largest, __shfl_xor_sync(mask, largest, step));
    return largest;
  }

  // Squares are added by halves: 8 + 8, 4 + 4, ..., the first of them across threads.
  __device__ float error(float scale, float global, float unit) const {
    const float d = __fmul_rn(scale, global);
    float squares[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float e = __fmul_rn(__fsub_rn(x[i], quantized(x[i], d)), unit);
      squares[i] = __fmul_rn(e, e);
    }
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2)
#pragma unroll
      for (int i = 0; i < N; ++i)
        squares[i] = __fadd_rn(squares[i], __shfl_xor_sync(mask, squares[i], step));
#pragma unroll
    for (int half = N / 2; half > 0; half /= 2)
#pragma unroll
      for (int i = 0; i < half; ++i) squares[i] = __fadd_rn(squares[i], squares[i + half]);
    return squares[0];
  }

  __device__ float search_scale(float amax, float global, float nearest) const {
    const float unit = error_unit(amax);
    float best = nearest, best_error = __int_as_float(0x7F800000);
    for (int code = min(0x7E, max(0x0F, encode_e4m3(nearest) + 7)); code >= 1; --code) {
      const float scale = decode_e4m3(code);
      const float reach = __fmul_rn(nvfp4::kE2M1Max, __fmul_rn(scale, global));
      const float clipped = __fmul_rn(fmaxf(0.0f, __fsub_rn(amax, reach)), unit);
      if (__fmul_rn(clipped, clipped) > best_error) break;
      const float e = error(scale, global, unit);
      if (e <= best_error) best = scale, best_error = e;
    }
    return best;
  }

  __device__ float four_over_six_scale(float amax, float global) const {
    const auto scale_for = [&](float largest) {
      return round_block_scale(__fdiv_rn(__fdiv_rn(largest, nvfp4::kE2M1Max), global));
    };
    const float six = scale_for(amax), four = scale_for(__fmul_rn(1.5f, amax));
    const float unit = error_unit(amax);
    return error(four, global, unit) < error(six, global, unit) ? four : six;
  }

  template <BlockScale kRule>
  __device__ float scale(float global) const {
    const float largest = amax();
    const float wanted = __fdiv_rn(largest, __fmul_rn(nvfp4::kE2M1Max, global));
    const float nearest = round_block_scale(wanted);
    if (kRule == BlockScale::max || !(largest > 0)) return nearest;
    return kRule == BlockScale::mse ? search_scale(largest, global, nearest)
                                    : four_over_six_scale(largest, global);
  }
};

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

  const float d = __fmul_rn(block.template scale<kRule>(global), global);
  // A little above 2688 * global: the amax that global was made from must not count as clipped.
  const float limit =
      __fmul_rn(__fmul_rn(nvfp4::kE2M1Max, __fmul_rn(nvfp4::kE4M3Max, global)), 1.0f + 0x1p-21f);
  unsigned beyond = 0;
  float out[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    beyond += fabsf(block.x[i]) > limit;
    out[i] = quantized(block.x[i], d);
  }
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
