// Block scales chosen by squared error: `mse` and `four_over_six`. Errors are relative to the
// block's amax, in a fixed order of summation, so that no magnitude overflows and every CPU chooses
// the same scale.
#pragma once

#include <algorithm>
#include <bit>
#include <limits>

#include "nvfp4/block.h"

HWY_BEFORE_NAMESPACE();
namespace qad::nvfp4 {

// What block errors are measured in: the power of two at or below amax, inverted. Exact, so that it
// moves no tie.
inline float error_unit(float amax) {
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(amax) >> 23;
  return std::bit_cast<float>((254 - std::clamp(exponent, 1u, 253u)) << 23);
}

// The sum over the block of ((x - e2m1(x/d) * d) * unit)^2 with d = scale * global: halves are
// added to each other.
HWY_INLINE float block_error(const float* x, float scale, float global, float unit) {
  const Floats f;
  const auto d = hn::Set(f, scale * global);
  HWY_ALIGN float squares[kBlock];
  for (int i = 0; i < kBlock; i += kLanes) {
    const auto in = hn::LoadU(f, x + i);
    const auto error =
        hn::Mul(hn::Sub(in, hn::Mul(round_e2m1(hn::Div(in, d)), d)), hn::Set(f, unit));
    hn::Store(hn::Mul(error, error), f, squares + i);
  }
  for (int half = kBlock / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) squares[i] += squares[i + half];
  return squares[0];
}

// Of the 126 positive finite E4M3 values the one with the least block_error, the smallest of
// equals. Two bounds spare most of them (`nearest` is the max rule's scale, amax > 0):
// - Above: while amax/d < 7, every x rounds at least as closely on the grid d as on the grid 2d,
// whose points up to
//   6d are points of d's. So of two codes c and c + 8 (half and double) the upper cannot win, once
//   c >= nearest and c is normal. With a power-of-two global scale this holds in floating point
//   too, since e2m1 * d is exact.
// - Below: once clipping amax to 6d alone costs more than the best so far, so does every smaller d.
inline float search_scale(const float* x, float amax, float global, float nearest) {
  const float unit = error_unit(amax);
  const int last = std::min(0x7E, std::max(0x0F, e4m3_encode(nearest) + 7));
  float best = nearest, best_error = std::numeric_limits<float>::infinity();
  for (int code = last; code >= 1; --code) {
    const float scale = e4m3_decode(static_cast<std::uint8_t>(code));
    const float clipped = std::max(0.0f, amax - kE2M1Max * (scale * global)) * unit;
    if (clipped * clipped > best_error) break;
    const float error = block_error(x, scale, global, unit);
    if (error <= best_error) best = scale, best_error = error;
  }
  return best;
}

// The better of mapping amax to 6 and to 4, which must be strictly better to be chosen. Dividing
// twice is ModelOpt's order for such scales, where the max rule divides by 6 * global.
inline float four_over_six_scale(const float* x, float amax, float global, float) {
  const auto scale_for = [&](float largest) {
    return hn::GetLane(round_block_scale(hn::Set(Floats(), largest / kE2M1Max / global)));
  };
  const float six = scale_for(amax), four = scale_for(1.5f * amax), unit = error_unit(amax);
  return block_error(x, four, global, unit) < block_error(x, six, global, unit) ? four : six;
}

}  // namespace qad::nvfp4
HWY_AFTER_NAMESPACE();
