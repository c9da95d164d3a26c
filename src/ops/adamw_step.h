// What an AdamW step is made of on every device: its constants, a master in two halves, and how
// moments are kept in fewer bits than FP32. Without LibTorch, so that kernels compile it too.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/random.h"

namespace qad::ops {

// Every device does, with these and g the gradient times its factor, fused multiply-adds included:
//   m = fma(keep1, g - m, m)           v = fma(keep2 * g, g, v * beta2)
//   w = w * decay - rate * m / fma(sqrt(v), correction, epsilon)
// Constants are made in double and rounded once.
struct AdamWStep {
  float keep1, beta2, keep2, decay, rate, correction, epsilon;
  std::uint64_t stream;  // of the random numbers that round the moments
};

inline AdamWStep adamw_step(double learning_rate, double beta1, double beta2, double epsilon,
                            double weight_decay, std::int64_t step, std::uint64_t seed) {
  const auto t = static_cast<double>(step);
  const auto f = [](double x) { return static_cast<float>(x); };
  return {f(1 - beta1),
          f(beta2),
          f(1 - beta2),
          f(1 - learning_rate * weight_decay),
          f(learning_rate / (1 - std::pow(beta1, t))),
          f(1 / std::sqrt(1 - std::pow(beta2, t))),
          f(epsilon),
          random_bits(seed, static_cast<std::uint64_t>(step))};
}

// An FP32 master in two halves: its BF16 rounding, which is what a forward pass reads, and the
// whole number of the master's last places that this is off by. Half is rounded away from zero,
// since the place of a rounding to even would need a 17th bit; only there does it differ from
// round_to_bf16.
struct Halves {
  std::uint16_t high;  // the bits of a BF16 number
  std::int16_t low;
};

// join_master gives every number's bits back; all NaN become one, whose high half is NaN, too.
constexpr Halves split_master(float x) {
  const std::uint32_t bits = x != x ? 0x7FC00000u : std::bit_cast<std::uint32_t>(x);
  const auto high = static_cast<std::uint16_t>((bits + 0x8000) >> 16);
  return {high, static_cast<std::int16_t>(static_cast<std::uint16_t>(bits & 0xFFFF))};
}
constexpr float join_master(Halves h) {
  return std::bit_cast<float>((static_cast<std::uint32_t>(h.high) << 16) +
                              static_cast<std::uint32_t>(std::int32_t{h.low}));
}

// The largest magnitude of high halves, from the bits of the masters' largest: rounding keeps the
// order, and infinity and NaN stay what they are.
constexpr float split_amax(std::uint32_t largest) {
  return join_master({split_master(std::bit_cast<float>(largest)).high, 0});
}

// Draws of elements 2 i and 2 i + 1: 32 bits each, the even one's low. Of an element's the low 16
// round m and the high 16 round v.
constexpr std::uint64_t moment_draws(const AdamWStep& s, std::uint64_t i) {
  return random_bits(s.stream, i);
}

// The BF16 number below or above x in magnitude, with the probabilities that make x the
// expectation. Rounding to nearest would stop a moment whose change in a step is below half a unit.
constexpr float round_moment_to_bf16(float x, std::uint32_t random16) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const bool finite = (bits & 0x7F800000) != 0x7F800000;
  return std::bit_cast<float>((bits + (finite ? random16 : 0)) & 0xFFFF0000u);
}

// Moments in 8 bits: blocks of 256 consecutive elements share a scale, a power of two, and each
// element is a small float of 3 mantissa bits beneath it (NUMERICS.md 6).
inline constexpr std::int64_t kMomentBlock = 256;

// The scale of a block, from the bits of its largest magnitude, which becomes 0.94 to 1.875, the
// largest code, so that rounding up never saturates. NaN when something is infinite or NaN: the
// next update then carries it to the weights, where it is seen.
constexpr float moment_scale(std::uint32_t largest) {
  if (largest >= 0x7F800000) return std::numeric_limits<float>::quiet_NaN();
  const std::uint32_t up = (largest + 0xFFFFF) >> 23;
  // Not so small that codes decode to rounded numbers, nor so large that the inverse does.
  const std::uint32_t exponent = up < 27 ? 27 : up > 253 ? 253 : up;
  return std::bit_cast<float>(exponent << 23);
}

constexpr float inverse_scale(float scale) {  // exact
  return std::bit_cast<float>((254u << 23) - std::bit_cast<std::uint32_t>(scale));
}

// A small float without sign: kExponentBits and 3 mantissa bits, 0 to 1.875, subnormal below
// 2^(2 - 2^kExponentBits). Its codes are the upper bits of the floats at the very bottom of FP32,
// whose subnormals become its own: a product with a power of two turns one into the other.
template <int kExponentBits>
struct SmallFloat {
  static constexpr std::uint32_t kCodes = 8u << kExponentBits;
  static constexpr std::uint32_t kShift = 128u - (1u << kExponentBits);
  static constexpr float kDown = std::bit_cast<float>((127 - kShift) << 23);  // 2^-kShift
  static constexpr float kUp = std::bit_cast<float>((127 + kShift) << 23);

  // Rounded down or up as round_moment_to_bf16.
  static constexpr std::uint32_t encode(float x, std::uint32_t random16) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x * kDown);
    const std::uint32_t code = (bits + (random16 << 4 | 8)) >> 20;
    return code < kCodes ? code : kCodes - 1;
  }
  static constexpr float decode(std::uint32_t code) {
    return std::bit_cast<float>(code << 20) * kUp;
  }
};

// m: a sign and 7 bits, 2^-17 to 1.875. Smaller ones become 0 or 2^-17, in expectation themselves.
constexpr std::uint8_t encode_m(float x, float inverse, std::uint32_t random16) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const float magnitude = std::bit_cast<float>(bits & 0x7FFFFFFF);
  return static_cast<std::uint8_t>(SmallFloat<4>::encode(magnitude * inverse, random16) |
                                   bits >> 31 << 7);
}
constexpr float decode_m(std::uint8_t code, float scale) {
  const float magnitude = SmallFloat<4>::decode(code & 0x7F) * scale;
  return code & 0x80 ? -magnitude : magnitude;
}

// v: 8 bits, 2^-33 to 1.875. One that is not 0 stays so: dividing by the root of a 0 that should
// be small would be a leap, where the smallest code makes a short step.
constexpr std::uint8_t encode_v(float x, float inverse, std::uint32_t random16) {
  const std::uint32_t code = SmallFloat<5>::encode(x * inverse, random16);
  return static_cast<std::uint8_t>(code == 0 && x > 0 ? 1 : code);
}
constexpr float decode_v(std::uint8_t code, float scale) {
  return SmallFloat<5>::decode(code) * scale;
}

}  // namespace qad::ops
