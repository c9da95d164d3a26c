// Vector arithmetic on blocks of 16: rounding to the E2M1 and E4M3 grids, and a block's squared
// error. Highway with static dispatch, so the instruction set is the compiler's (-march); every
// result is the same bits on all of them.
#pragma once

// Highway asks for AES instructions before it uses AVX2; x86-64-v3 has none and this code needs
// none.
#define HWY_DISABLE_PCLMUL_AES
#include <hwy/highway.h>

#include <cstdint>

#include "nvfp4/nvfp4.h"

HWY_BEFORE_NAMESPACE();
namespace qad::nvfp4 {

namespace hn = hwy::HWY_NAMESPACE;

// One AVX-512 register, two of AVX2 or four of SSE hold a block.
using Floats = hn::CappedTag<float, kBlock>;
using Ints = hn::RebindToSigned<Floats>;
using Vector = hn::Vec<Floats>;
inline constexpr int kLanes = static_cast<int>(hn::MaxLanes(Floats()));

// Nearest-even rounding to a floating grid: adding 1.5 * 2^23 * step leaves no bit below `step`.
// The step follows from the power of two at or below the magnitude, and is constant below
// `smallest_normal`.
struct Rounder {
  Vector sum;              // magnitude + 1.5 * 2^23 * step: its low mantissa bits count steps
  Vector offset;           // 1.5 * 2^23 * step
  hn::Vec<Ints> exponent;  // biased, still in place
};

// kMantissa: the grid's mantissa bits (1 for E2M1, 3 for E4M3). Magnitudes must not be negative.
template <int kMantissa>
HWY_INLINE Rounder round_to_grid(Vector magnitude, float smallest_normal) {
  const Floats f;
  const Ints i;
  const auto exponent = hn::And(hn::BitCast(i, hn::Max(hn::Set(f, smallest_normal), magnitude)),
                                hn::Set(i, 0x7F800000));
  const auto offset =
      hn::BitCast(f, hn::Add(exponent, hn::Set(i, ((23 - kMantissa) << 23) | 0x400000)));
  return {hn::Add(magnitude, offset), offset, exponent};
}

// min(|x|, 6), and NaN for NaN on every target (Highway's Min leaves that open).
HWY_INLINE Vector saturate_e2m1(Vector x) {
  const auto magnitude = hn::Abs(x), largest = hn::Set(Floats(), kE2M1Max);
  return hn::IfThenElse(hn::Gt(magnitude, largest), largest, magnitude);
}

// The E2M1 value nearest to each lane, ties to the even code. -0.0 gives 0.0, a tiny negative -0.0.
HWY_INLINE Vector round_e2m1(Vector x) {
  const Floats f;
  const auto rounded = round_to_grid<1>(saturate_e2m1(x), 1.0f);
  return hn::CopySign(hn::Sub(rounded.sum, rounded.offset), hn::Add(x, hn::Zero(f)));
}

// The E2M1 code (0..15) of each lane.
HWY_INLINE hn::Vec<Ints> encode_e2m1(Vector x) {
  const Floats f;
  const Ints i;
  const auto rounded = round_to_grid<1>(saturate_e2m1(x), 1.0f);
  // Steps of 0.5 below 2, of 1 below 4, of 2 from there: each octave's first code is two more than
  // its step count.
  const auto steps = hn::And(hn::BitCast(i, rounded.sum), hn::Set(i, 7));
  const auto octave = hn::Sub(hn::ShiftRight<22>(rounded.exponent), hn::Set(i, 2 * 127));
  const auto sign =
      hn::And(hn::ShiftRight<28>(hn::BitCast(i, hn::Add(x, hn::Zero(f)))), hn::Set(i, 8));
  return hn::Or(hn::Add(steps, octave), sign);
}

HWY_INLINE Vector decode_e2m1(hn::Vec<Ints> code) {
  const Floats f;
  const Ints i;
  const auto magnitude = hn::And(code, hn::Set(i, 7));
  // From 1.0 (code 2) on, exponent and mantissa of the code are those of the float; 0 and 0.5 are
  // half the code.
  const auto normal = hn::BitCast(f, hn::ShiftLeft<22>(hn::Add(magnitude, hn::Set(i, 2 * 126))));
  const auto small = hn::Mul(hn::ConvertTo(f, magnitude), hn::Set(f, 0.5f));
  const auto value =
      hn::IfThenElse(hn::RebindMask(f, hn::Lt(magnitude, hn::Set(i, 2))), small, normal);
  return hn::Or(value, hn::BitCast(f, hn::ShiftLeft<28>(hn::And(code, hn::Set(i, 8)))));
}

// The value of the E4M3 block scale for a wanted scale >= 0: nearest even within [2^-9, 448];
// exactly 0 gives 1.
HWY_INLINE Vector round_block_scale(Vector wanted) {
  const Floats f;
  const auto clamped = hn::Min(hn::Max(wanted, hn::Set(f, kE4M3Min)), hn::Set(f, kE4M3Max));
  const auto rounded = round_to_grid<3>(clamped, 0x1p-6f);
  return hn::IfThenElse(hn::Eq(wanted, hn::Zero(f)), hn::Set(f, 1.0f),
                        hn::Sub(rounded.sum, rounded.offset));
}

// The E4M3 codes of values that round_block_scale returned.
HWY_INLINE hn::Vec<Ints> encode_block_scale(Vector scale) {
  const Floats f;
  const Ints i;
  const auto normal =
      hn::Sub(hn::ShiftRight<20>(hn::BitCast(i, scale)), hn::Set(i, (127 - 7) << 3));
  const auto subnormal = hn::ConvertTo(i, hn::Mul(scale, hn::Set(f, 0x1p9f)));
  return hn::IfThenElse(hn::RebindMask(i, hn::Lt(scale, hn::Set(f, 0x1p-6f))), subnormal, normal);
}

// The largest magnitude of one block.
HWY_INLINE float block_amax(const float* x) {
  const Floats f;
  auto largest = hn::Abs(hn::LoadU(f, x));
  for (int i = kLanes; i < kBlock; i += kLanes)
    largest = hn::Max(hn::Abs(hn::LoadU(f, x + i)), largest);
  return hn::GetLane(hn::MaxOfLanes(f, largest));
}

}  // namespace qad::nvfp4
HWY_AFTER_NAMESPACE();
