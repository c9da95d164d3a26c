// Blocks of 16 in registers with the bits of nvfp4::fake_quantize: the same steps in the same order
// (nvfp4/block.h, nvfp4/scale_search.h). Every operation is an intrinsic that rounds to nearest, so
// that the compiler can neither fuse nor approximate.
#pragma once

#include "nvfp4/nvfp4.h"

// Blackwell rounds to E2M1 in one instruction, but only code for a family of its GPUs (sm_100f,
// sm_110f, sm_120f) or for one of them (sm_100a, ...) may hold it. Not yet run on such a GPU.
#if defined(__CUDA_ARCH_FAMILY_SPECIFIC__) && __CUDA_ARCH_FAMILY_SPECIFIC__ >= 1000 && \
    __CUDA_ARCH_FAMILY_SPECIFIC__ < 1300
#define QAD_CVT_E2M1 1
#else
#define QAD_CVT_E2M1 0
#endif

namespace qad::cuda {

using nvfp4::BlockScale;

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

#if QAD_CVT_E2M1
// Keeps the sign of a zero, and makes 6 of NaN.
__device__ inline float2 cvt_e2m1(float x, float y) {
  float2 rounded;
  asm("{\n"
      ".reg .b8 codes;\n"
      ".reg .b32 pair;\n"
      ".reg .b16 low, high;\n"
      "cvt.rn.satfinite.e2m1x2.f32 codes, %3, %2;\n"
      "cvt.rn.f16x2.e2m1x2 pair, codes;\n"
      "mov.b32 {low, high}, pair;\n"
      "cvt.f32.f16 %0, low;\n"
      "cvt.f32.f16 %1, high;\n"
      "}"
      : "=f"(rounded.x), "=f"(rounded.y)
      : "f"(x), "f"(y));
  return rounded;
}
#endif

// x becomes e2m1(x) * d: -0 becomes 0, NaN stays.
template <int N>
__device__ inline void round_e2m1(float (&x)[N], float d) {
#if QAD_CVT_E2M1
  constexpr int kPair = N > 1;
#pragma unroll
  for (int i = 0; i < N; i += 2) {
    const float2 rounded =
        cvt_e2m1(__fadd_rn(x[i], 0.0f), kPair ? __fadd_rn(x[i + kPair], 0.0f) : 0.0f);
    x[i] = __fmul_rn(isnan(x[i]) ? x[i] : rounded.x, d);
    if (kPair) x[i + kPair] = __fmul_rn(isnan(x[i + kPair]) ? x[i + kPair] : rounded.y, d);
  }
#else
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float magnitude = round_to_grid<1>(min_or_nan(fabsf(x[i]), nvfp4::kE2M1Max), 1.0f);
    x[i] = __fmul_rn(copysignf(magnitude, __fadd_rn(x[i], 0.0f)), d);
  }
#endif
}

__device__ inline float round_block_scale(float wanted) {
  const float clamped = fminf(fmaxf(wanted, nvfp4::kE4M3Min), nvfp4::kE4M3Max);
  return wanted == 0.0f ? 1.0f : round_to_grid<3>(clamped, 0x1p-6f);
}

__device__ inline float decode_e4m3(int code) {
  return code < 8 ? static_cast<float>(code) * nvfp4::kE4M3Min
                  : __int_as_float((code << 20) + (120 << 23));
}
__device__ inline int encode_e4m3(float scale) {  // of a value that round_block_scale returned
  return scale < 0x1p-6f ? static_cast<int>(scale * 0x1p9f)
                         : (__float_as_int(scale) >> 20) - (120 << 3);
}

// E2M1 values times 2^-126 are floats whose upper bits are the codes, 0.5 as a subnormal.
constexpr float kToCodes = 0x1p-126f, kFromCodes = 0x1p126f;
constexpr int kCodeShift = 22;

__device__ inline float decode_e2m1(unsigned code) {  // 0..15
  return __uint_as_float((code & 7) << kCodeShift | (code & 8) << 28) * kFromCodes;
}

__device__ inline float decode_scale(int code) {  // of a checkpoint: NaN stays
  return code == nvfp4::kE4M3NaN ? __int_as_float(0x7FFFFFFF) : decode_e4m3(code);
}

// The power of two at or below amax, inverted.
__device__ inline float error_unit(float amax) {
  const int exponent = __float_as_int(amax) >> 23;
  return __int_as_float((254 - min(max(exponent, 1), 253)) << 23);
}

// A block of 16 lies in kLanes neighbouring threads, N values each, all of which call what is here.
template <int N>
struct Block {
  static constexpr int kLanes = nvfp4::kBlock / N;
  const float (&x)[N];
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

  // y = e2m1(x / d) * d. One reciprocal serves the block: with d's rounded to nearest, a quotient
  // within an ulp and its remainder by fused multiply-add, the corrected quotient is the one that
  // division rounds to (Markstein 1990), as long as nothing leaves the normal numbers. Quotients
  // below 1/8 may: they become zeros either way.
  __device__ void quantize(float d, float amax, float (&y)[N]) const {
    if (d >= 0x1p-60f && d <= 0x1p15f && amax <= 0x1p60f) {
      const float inverse = __frcp_rn(d);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float q = __fmul_rn(x[i], inverse);
        y[i] = __fmaf_rn(__fmaf_rn(-q, d, x[i]), inverse, q);
      }
      round_e2m1(y, d);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) y[i] = __fdiv_rn(x[i], d);
      round_e2m1(y, d);
    }
  }

  // y as quantize makes it, and its error. Squares are added by halves: 8 + 8, 4 + 4, ..., the
  // first of them across threads.
  __device__ float error(float scale, float global, float amax, float (&y)[N]) const {
    const float unit = error_unit(amax);
    float squares[N];
    quantize(__fmul_rn(scale, global), amax, y);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float e = __fmul_rn(__fsub_rn(x[i], y[i]), unit);
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

  // Each of these leaves in y what its scale makes of x.
  __device__ void search_scale(float amax, float global, float nearest, float (&y)[N]) const {
    const float unit = error_unit(amax);
    float best = nearest, best_error = __int_as_float(0x7F800000);
    for (int code = min(0x7E, max(0x0F, encode_e4m3(nearest) + 7)); code >= 1; --code) {
      const float scale = decode_e4m3(code);
      const float reach = __fmul_rn(nvfp4::kE2M1Max, __fmul_rn(scale, global));
      const float clipped = __fmul_rn(fmaxf(0.0f, __fsub_rn(amax, reach)), unit);
      if (__fmul_rn(clipped, clipped) > best_error) break;
      const float e = error(scale, global, amax, y);
      if (e <= best_error) best = scale, best_error = e;
    }
    quantize(__fmul_rn(best, global), amax, y);
  }

  __device__ void four_over_six(float amax, float global, float (&y)[N]) const {
    const auto scale_for = [&](float largest) {
      return round_block_scale(__fdiv_rn(__fdiv_rn(largest, nvfp4::kE2M1Max), global));
    };
    const float six = scale_for(amax), four = scale_for(__fmul_rn(1.5f, amax));
    float of_four[N];
    const float error_of_six = error(six, global, amax, y);
    const bool better = error(four, global, amax, of_four) < error_of_six;
#pragma unroll
    for (int i = 0; i < N; ++i) y[i] = better ? of_four[i] : y[i];
  }

  // y = the fake quantisation of x, whose amax() is `largest`.
  template <BlockScale kRule>
  __device__ void fake_quantize(float global, float largest, float (&y)[N]) const {
    if (kRule == BlockScale::four_over_six && largest > 0) return four_over_six(largest, global, y);
    const float wanted = __fdiv_rn(largest, __fmul_rn(nvfp4::kE2M1Max, global));
    const float nearest = round_block_scale(wanted);
    if (kRule == BlockScale::mse && largest > 0) return search_scale(largest, global, nearest, y);
    quantize(__fmul_rn(nearest, global), largest, y);
  }
};

}  // namespace qad::cuda
