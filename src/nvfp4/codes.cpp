// The scalar part of the format: single codes and the global scale. Written for clarity; whole
// matrices go through the vectors of block.h, which the tests hold equal to these.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "nvfp4/global_scale.h"
#include "nvfp4/nvfp4.h"

namespace qad::nvfp4 {
namespace {

constexpr float kE2M1[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

// Sign, four exponent bits of bias 7, three of mantissa; no infinity, and a NaN where all seven are
// set.
constexpr std::array<float, 256> kE4M3 = [] {
  std::array<float, 256> table{};
  for (std::uint32_t code = 0; code < 256; ++code) {
    const std::uint32_t magnitude = code & 0x7F;
    // Exponent and mantissa sit in a float's places, but for the bias (127 there); subnormals count
    // 2^-9.
    const float value = magnitude == 0x7F ? std::numeric_limits<float>::quiet_NaN()
                        : magnitude < 8
                            ? static_cast<float>(magnitude) * kE4M3Min
                            : std::bit_cast<float>((magnitude << 20) + ((127u - 7u) << 23));
    table[code] = code & 0x80 ? -value : value;
  }
  return table;
}();

}  // namespace

std::uint8_t e4m3_encode(float x) {
  if (std::isnan(x)) return 0x7F;
  const std::uint8_t sign = std::signbit(x) ? 0x80 : 0;
  const float magnitude = std::min(std::fabs(x), kE4M3Max);
  // The step between neighbours: 2^-9 among the subnormals, then an eighth of the power of two
  // below.
  const int exponent = magnitude < 0x1p-6f ? -6 : std::ilogb(magnitude);
  // nearbyint is nearest-even; a mantissa that rounds up to 16 carries into the exponent by itself.
  const int mantissa = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));
  return sign | static_cast<std::uint8_t>(mantissa + 8 * (exponent + 6));
}

float e4m3_decode(std::uint8_t code) {
  return kE4M3[code];
}

std::uint8_t e2m1_encode(float x) {
  const float magnitude = std::fabs(x);
  // Midpoint i lies between codes i and i + 1; a tie goes to the even one.
  constexpr float kMidpoints[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  std::uint8_t code = 0;
  for (int i = 0; i < 7; ++i)
    code += magnitude > kMidpoints[i] || (magnitude == kMidpoints[i] && i % 2 == 1);
  return code | (x < 0.0f ? 8 : 0);
}

float e2m1_decode(std::uint8_t code) {
  return code & 8 ? -kE2M1[code & 7] : kE2M1[code & 7];
}

float global_scale(float amax, GlobalScale rule, BlockScale blocks) {
  check(std::isfinite(amax) && amax >= 0.0f, "global_scale",
        "expected a finite amax that is not negative, found {}", amax);
  return unchecked_global_scale(amax, rule, blocks);
}

float amax(std::span<const float> x, std::string_view name) {
  std::uint32_t largest = 0;
  for (const float value : x) largest = std::max(largest, magnitude_bits(value));
  if (largest >= kInfinityBits) {
    const auto bad = std::find_if(x.begin(), x.end(), [](float v) { return !std::isfinite(v); });
    fail("amax",
         "{}: expected finite values, found {} at element {} of {}; is the checkpoint intact?",
         name, *bad, bad - x.begin(), x.size());
  }
  return std::bit_cast<float>(largest);
}

}  // namespace qad::nvfp4
