// NVFP4 fake quantisation of values in registers, with the bits of nvfp4::fake_quantize: the same
// steps in the same order (nvfp4/block.h, nvfp4/scale_search.h). Every operation is an intrinsic
// that rounds to nearest, so that the compiler can neither fuse nor approximate.
#pragma once

#include <bit>

#include "cuda/launch.h"
#include "cuda/vector.cuh"

namespace qad::cuda {

// What every kernel that quantises is told.
struct Format {
  float global;
  float limit;      // values beyond it are counted
  bool reciprocal;  // x * (1 / d) has the code of x / d, unless clipped
  unsigned long long* clipped;
};

// A BF16 value has 8 significant bits, and d = scale * global has 4 where global is a power of two.
// A quotient of such that is no tie of the code is further from one than FP32 roundings reach, and
// the quotient of a tie comes out exact if 1 / d is known to more than FP32: all 255 * 15 pairs of
// significands give the code of the division (tests/cuda/format_cases.cpp has them). The range of
// global keeps d and 1 / d normal and quotients of values other than zero from becoming zero.
inline Format format_of(Type type, const Quantization& q) {
  const bool power = (std::bit_cast<std::uint32_t>(q.global) & 0x7FFFFF) == 0;
  // A little above 2688 * global: the amax that global was made from must not count as clipped.
  const float limit = nvfp4::kE2M1Max * (nvfp4::kE4M3Max * q.global) * (1.0f + 0x1p-21f);
  return {q.global, limit,
          type == Type::bf16 && power && q.global >= 0x1p-100f && q.global <= 0x1p7f,
          reinterpret_cast<unsigned long long*>(q.clipped)};
}

// The rounding of a magnitude to a grid with kMantissa bits, steps constant below smallest_normal:
// adding 1.5 * 2^23 steps leaves no bit below a step.
template <int kMantissa>
__device__ inline float round_to_grid(float magnitude, float smallest_normal) {
  const int exponent = __float_as_int(fmaxf(smallest_normal, magnitude)) & 0x7F800000;
  const float offset = __int_as_float(exponent + (((23 - kMantissa) << 23) | 0x400000));
  return __fsub_rn(__fadd_rn(magnitude, offset), offset);
}

__device__ inline float min_or_nan(float a, float b) {
  float least;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(least) : "f"(a), "f"(b));
  return least;
}

__device__ inline float round_e2m1(float x) {
  return copysignf(round_to_grid<1>(min_or_nan(fabsf(x), nvfp4::kE2M1Max), 1.0f),
                   __fadd_rn(x, 0.0f));
}

__device__ inline float round_block_scale(float wanted) {
  const float clamped = fminf(fmaxf(wanted, nvfp4::kE4M3Min), nvfp4::kE4M3Max);
  return wanted == 0.0f ? 1.0f : round_to_grid<3>(clamped, 0x1p-6f);
}

__device__ inline float quantized(float x, float d) {
  return __fmul_rn(round_e2m1(__fdiv_rn(x, d)), d);
}

__device__ inline float decode_e4m3(int code) {
  return code < 8 ? static_cast<float>(code) * nvfp4::kE4M3Min
                  : __int_as_float((code << 20) + (120 << 23));
}
__device__ inline int encode_e4m3(float scale) {  // of a value that round_block_scale returned
  return scale < 0x1p-6f ? static_cast<int>(scale * 0x1p9f)
                         : (__float_as_int(scale) >> 20) - (120 << 3);
}

// The power of two at or below amax, inverted.
__device__ inline float error_unit(float amax) {
  const int exponent = __float_as_int(amax) >> 23;
  return __int_as_float((254 - min(max(exponent, 1), 253)) << 23);
}

// Adds what a thread counted: at the end of a kernel, since additions to one place take turns.
__device__ inline void add_clipped(const Format& f, unsigned beyond) {
  if (beyond == 0) return;
  const unsigned here = __activemask();
  beyond = __reduce_add_sync(here, beyond);
  if (threadIdx.x % 32 == __ffs(here) - 1) atomicAdd(f.clipped, beyond);
}

// A block of 16 lies in kLanes neighbouring threads, N values each, all of which call what is here.
template <int N>
struct Block {
  static constexpr int kLanes = nvfp4::kBlock / N;
  float (&x)[N];
  const unsigned mask = ((1u << kLanes) - 1) << (threadIdx.x % 32 / kLanes * kLanes);

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

  template <nvfp4::BlockScale kRule>
  __device__ float scale(float largest, float global) const {
    const float wanted = __fdiv_rn(largest, __fmul_rn(nvfp4::kE2M1Max, global));
    const float nearest = round_block_scale(wanted);
    if (kRule == nvfp4::BlockScale::max || !(largest > 0)) return nearest;
    return kRule == nvfp4::BlockScale::mse ? search_scale(largest, global, nearest)
                                           : four_over_six_scale(largest, global);
  }

  // x becomes its fake quantisation; returns how many of these N are clipped.
  template <nvfp4::BlockScale kRule>
  __device__ unsigned quantize(const Format& f) {
    const float largest = amax();
    unsigned beyond = 0;
    if (largest > f.limit) {
#pragma unroll
      for (int i = 0; i < N; ++i) beyond += fabsf(x[i]) > f.limit;
    }
    const float d = __fmul_rn(scale<kRule>(largest, f.global), f.global);
    if (f.reciprocal && !(largest > f.limit)) {
      const float inverse = __frcp_rn(d), rest = __fmul_rn(__fmaf_rn(-d, inverse, 1.0f), inverse);
#pragma unroll
      for (int i = 0; i < N; ++i)
        x[i] = __fmul_rn(round_e2m1(__fmaf_rn(x[i], inverse, __fmul_rn(x[i], rest))), d);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = quantized(x[i], d);
    }
    return beyond;
  }
};

}  // namespace qad::cuda
