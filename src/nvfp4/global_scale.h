// From the largest magnitude of a weight to its global scale, in a form that kernels of every
// device compile: the definition behind nvfp4::global_scale.
#pragma once

#include <bit>
#include <limits>

#include "nvfp4/nvfp4.h"

namespace qad::nvfp4 {

// Magnitudes order like their bits, and infinity and NaN lie above every finite value: a maximum
// over bits misses neither and does not depend on the order it is taken in.
inline constexpr std::uint32_t kInfinityBits = 0x7F800000;

constexpr std::uint32_t magnitude_bits(float x) {
  return std::bit_cast<std::uint32_t>(x) & 0x7FFFFFFF;
}

// The largest magnitude of bf16(x), from the largest bits of the x: rounding keeps the order. Every
// NaN becomes the same one.
constexpr float bf16_amax(std::uint32_t largest) {
  return largest > kInfinityBits ? std::numeric_limits<float>::quiet_NaN()
                                 : round_to_bf16(std::bit_cast<float>(largest));
}

// Whether every code under that scale decodes to a finite number.
constexpr bool scale_fits(float global) {
  return kE2M1Max * (kE4M3Max * global) <= std::numeric_limits<float>::max();
}

// nvfp4::global_scale without its check; amax is finite and not negative.
constexpr float unchecked_global_scale(float amax, GlobalScale rule, BlockScale blocks) {
  if (amax == 0.0f) return 1.0f;
  const float largest_scale = blocks == BlockScale::four_over_six ? 256.0f : kE4M3Max;
  const float quotient = amax / (kE2M1Max * largest_scale);
  const float exact = quotient < kMinGlobal ? kMinGlobal : quotient;
  if (rule == GlobalScale::amax) return exact;
  // The power of two at or below (a normal number), then judged by the product, which is exact in
  // double: the quotient's rounding must not lose the last bit of amax.
  float power = std::bit_cast<float>(std::bit_cast<std::uint32_t>(exact) & kInfinityBits);
  while (static_cast<double>(power) * kE2M1Max * largest_scale < amax) power *= 2.0f;
  return power;
}

}  // namespace qad::nvfp4
