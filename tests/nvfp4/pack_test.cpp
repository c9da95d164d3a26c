// Packing what is on the grid: every bit comes back, for every pair of code and scale, whichever
// code is a block's largest, and for what each rule makes of all kinds of values.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "nvfp4/nvfp4.h"
#include "nvfp4/plain.h"

namespace qad::nvfp4 {
namespace {

std::vector<float> rounded(std::vector<float> x, bool bf16) {
  if (bf16)
    for (float& v : x) v = round_to_bf16(v);
  return x;
}

struct Packed {
  std::vector<std::uint8_t> codes, scales;
};
Packed packed(const std::vector<float>& y, std::int64_t rows, std::int64_t cols, float global,
              bool bf16) {
  const std::int64_t blocks = rows * blocks_per_row(cols);
  Packed p{std::vector<std::uint8_t>(blocks * 8), std::vector<std::uint8_t>(blocks)};
  pack(y.data(), rows, cols, global, bf16, p.codes.data(), p.scales.data());
  return p;
}

// As integers, so that signed zeros count.
bool comes_back(const std::vector<float>& y, std::int64_t rows, std::int64_t cols, float global,
                bool bf16) {
  const Packed p = packed(y, rows, cols, global, bf16);
  std::vector<float> z(y.size());
  dequantize(p.codes.data(), p.scales.data(), rows, cols, global, z.data());
  z = rounded(z, bf16);
  return std::memcmp(y.data(), z.data(), y.size() * sizeof(float)) == 0;
}

// The last are amax / 2688 of some amax; the smallest and nearly the largest are among them.
const float kGlobals[] = {1.0f,        0x1p-10f,    0x1p-116f, 0x1p100f,       3.1e-4f,  0.7f,
                          1.0f / 2688, 9.87654e-3f, 1.2e35f,   2.3456789e-35f, 1e-3f / 3};

TEST(Pack, EveryCodeAndScaleComesBack) {
  for (const float global : kGlobals)
    for (const bool bf16 : {false, true}) {
      // A block for each scale and each largest code: the smaller codes with both signs, and in
      // places that differ from block to block.
      std::vector<float> y;
      for (int scale = 1; scale <= 0x7E; ++scale)
        for (int largest = 0; largest < 8; ++largest)
          for (int i = 0; i < kBlock; ++i) {
            const int code = (i * 5 + scale) % 16, magnitude = code & 7;
            const int taken = i == scale % kBlock ? largest : std::min(magnitude, largest);
            y.push_back(static_cast<float>(plain::e2m1(taken | (code & 8))) *
                        (static_cast<float>(plain::e4m3(scale)) * global));
          }
      y = rounded(std::move(y), bf16);
      EXPECT_TRUE(comes_back(y, 1, static_cast<std::int64_t>(y.size()), global, bf16))
          << global << (bf16 ? " in BF16" : "");
    }
}

// Blocks with one value and zeros: the hardest to tell scales apart from.
TEST(Pack, LoneValuesComeBack) {
  for (const float global : kGlobals)
    for (const bool bf16 : {false, true}) {
      std::vector<float> y;
      for (int scale = 1; scale <= 0x7E; ++scale)
        for (int code = 0; code < 16; ++code) {
          y.resize(y.size() + kBlock, code & 1 ? -0.0f : 0.0f);
          y[y.size() - 1 - code] = static_cast<float>(plain::e2m1(code)) *
                                   (static_cast<float>(plain::e4m3(scale)) * global);
        }
      y = rounded(std::move(y), bf16);
      EXPECT_TRUE(comes_back(y, 1, static_cast<std::int64_t>(y.size()), global, bf16))
          << global << (bf16 ? " in BF16" : "");
    }
}

TEST(Pack, WhatEveryRuleMakesComesBack) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (const std::int64_t cols : {1, 7, 16, 40, 100, 896})
    for (const float global : kGlobals)
      for (const auto rule : {BlockScale::max, BlockScale::mse, BlockScale::four_over_six})
        // Far below the grid's smallest value up to far above its largest.
        for (const int binades : {-22, -8, 0, 6, 11, 14}) {
          const std::int64_t rows = 5;
          std::vector<float> x(rows * cols);
          for (std::size_t i = 0; i < x.size(); ++i) {
            const int down = static_cast<int>(random() % 12);
            x[i] = std::ldexp(normal(random), binades - down) * global;
            if (random() % 8 == 0) x[i] = std::copysign(0.0f, x[i]);
            if (!std::isfinite(x[i])) x[i] = 0;
          }
          for (const bool bf16 : {false, true}) {
            std::vector<float> y = rounded(x, bf16);
            fake_quantize(y.data(), rows, cols, global, rule, y.data());
            EXPECT_TRUE(comes_back(rounded(y, bf16), rows, cols, global, bf16))
                << cols << " columns, global " << global << ", rule " << static_cast<int>(rule)
                << ", 2^" << binades << (bf16 ? " in BF16" : "");
          }
        }
}

TEST(Pack, LeavesZerosBehindARowsEnd) {
  const Packed p = packed({1.0f, -6.0f, 6.0f, -0.0f, 0.5f, 0.0f}, 2, 3, 1, false);
  EXPECT_EQ(p.scales, (std::vector<std::uint8_t>{0x38, e4m3_encode(0.125f)}));
  EXPECT_EQ(p.codes, (std::vector<std::uint8_t>{0xF2, 0x07, 0, 0, 0, 0, 0, 0,  //
                                                0x68, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(Pack, WhatIsOnNoGridBecomesNan) {
  for (const float bad : {NAN, INFINITY, 0.3f}) {
    std::vector<float> y(48, 0.5f);
    y[17] = bad;
    const Packed p = packed(y, 1, 48, 1, false);
    EXPECT_EQ(p.scales[1], kE4M3NaN);
    std::vector<float> z(48);
    dequantize(p.codes.data(), p.scales.data(), 1, 48, 1, z.data());
    for (int i = 0; i < 48; ++i) {
      if (i / 16 == 1)
        EXPECT_TRUE(std::isnan(z[i])) << i;
      else
        EXPECT_EQ(z[i], 0.5f) << i;
    }
  }
}

}  // namespace
}  // namespace qad::nvfp4
