// Block scales chosen by squared error: `mse` and `four_over_six`. Errors are relative to the
// block's amax, in a fixed order of summation, so that no magnitude overflows and every CPU chooses
// the same scale.
#pragma once

#include <algorithm>
#include <limits>

#include "nvfp4/block.h"

HWY_BEFORE_NAMESPACE();
namespace qad::nvfp4 {

// The sum over the block of ((x/d - e2m1(x/d)) * d/amax)^2, d = scale * global. An amax below the
// smallest d counts as that: it keeps d/amax within 2^18, so that an error of a subnormal quotient
// vanishes in its square.
HWY_INLINE float block_error(const float* x, float scale, float global, float amax) {
  const Floats f;
  const float d = scale * global;
  const auto divisor = hn::Set(f, d), unit = hn::Set(f, d / std::max(amax, kE4M3Min * global));
  HWY_ALIGN float squares[kBlock];
  for (int i = 0; i < kBlock; i += kLanes) {
    const auto quotient = hn::Div(hn::LoadU(f, x + i), divisor);
    const auto error = hn::Mul(hn::Sub(quotient, round_e2m1(quotient)), unit);
    hn::Store(hn::Mul(error, error), f, squares + i);
  }
  for (int half = kBlock / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) squares[i] += squares[i + half];
  return squares[0];
}

// Of the 126 positive finite E4M3 values the one with the least block_error, the smallest of
// equals. Two bounds spare most of them (`nearest` is the max rule's scale, amax > 0):
// - Above: while amax/d < 7, every x/d rounds at least as closely on the grid d as on the grid 2d,
// whose points up to
//   6d are points of d's. So of two codes c and c + 8 (half and double) the upper cannot win, once
//   c >= nearest and c is normal.
// - Below: once clipping amax to 6d alone costs more than the best so far, any smaller d costs more
// still.
inline float search_scale(const float* x, float amax, float global, float nearest) {
  const int last = std::min(0x7E, std::max(0x0F, e4m3_encode(nearest) + 7));
  float best = nearest, best_error = std::numeric_limits<float>::infinity();
  for (int code = last; code >= 1; --code) {
    const float scale = e4m3_decode(static_cast<std::uint8_t>(code));
    const float clipped = std::max(0.0f, 1.0f - kE2M1Max * (scale * global / amax));
    if (clipped * clipped * 0.9999f > best_error)
      break;  // 0.9999: more than all roundings in both errors
    const float error = block_error(x, scale, global, amax);
    if (error <= best_error) best = scale, best_error = error;
  }
  return best;
}

// The better of mapping amax to 6 (`nearest`) and to 4, which must be strictly better to be chosen.
inline float four_over_six_scale(const float* x, float amax, float global, float nearest) {
  const float wanted = 1.5f * amax / (kE2M1Max * global);
  const float wider = hn::GetLane(round_block_scale(hn::Set(Floats(), wanted)));
  return block_error(x, wider, global, amax) < block_error(x, nearest, global, amax) ? wider
                                                                                     : nearest;
}

}  // namespace qad::nvfp4
HWY_AFTER_NAMESPACE();
