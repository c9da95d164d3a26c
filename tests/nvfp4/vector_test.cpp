// The vectorised matrices against the plain definition, bit for bit, on shapes and magnitudes meant
// to break them.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "nvfp4/nvfp4.h"
#include "nvfp4/plain.h"

namespace qad::nvfp4 {
namespace {

std::vector<std::uint32_t> bits(const std::vector<float>& x) {
  std::vector<std::uint32_t> out;
  for (const float v : x) out.push_back(std::bit_cast<std::uint32_t>(v));
  return out;
}

struct Kind {
  const char* name;
  float (*draw)(std::mt19937&);
};

float normal(std::mt19937& random) {
  return std::normal_distribution<float>(0.0f, 0.02f)(random);
}
float mixed(std::mt19937& random) {  // every exponent of FP32 that a global scale can reach
  return std::ldexp(std::uniform_real_distribution<float>(-1.0f, 1.0f)(random),
                    std::uniform_int_distribution<int>(-149, 120)(random));
}
float octaves(std::mt19937& random) {  // a block's whole E4M3 range and somewhat more
  return std::ldexp(std::uniform_real_distribution<float>(-1.0f, 1.0f)(random),
                    -std::uniform_int_distribution<int>(0, 24)(random));
}
float grid(
    std::mt19937& random) {  // quarters: most quotients of a power-of-two scale are exact ties
  return static_cast<float>(std::uniform_int_distribution<int>(-28, 28)(random)) * 0.25f;
}
float near_grid(std::mt19937& random) {
  const float x = grid(random);
  return std::nextafter(x, random() % 2 ? 100.0f : -100.0f);
}
float sparse(std::mt19937& random) {
  return random() % 8 ? (random() % 2 ? 0.0f : -0.0f) : normal(random);
}
float subnormal(std::mt19937& random) {
  return normal(random) * 0x1p-126f;
}
float huge(std::mt19937& random) {
  return std::uniform_real_distribution<float>(-1.6e38f, 1.6e38f)(random);
}
float bfloat(std::mt19937& random) {
  return round_to_bf16(normal(random));
}

const Kind kKinds[] = {{"normal", normal},       {"mixed", mixed},         {"octaves", octaves},
                       {"grid", grid},           {"near_grid", near_grid}, {"sparse", sparse},
                       {"subnormal", subnormal}, {"huge", huge},           {"bfloat", bfloat}};

void expect_plain(const std::vector<float>& x, std::int64_t rows, std::int64_t cols, float global,
                  BlockScale rule) {
  const auto expected = plain::quantize(x, rows, cols, global, static_cast<plain::Rule>(rule));
  std::vector<std::uint8_t> codes(expected.codes.size()), scales(expected.scales.size());
  quantize(x.data(), rows, cols, global, rule, codes.data(), scales.data());
  ASSERT_EQ(scales, expected.scales);
  ASSERT_EQ(codes, expected.codes);
  std::vector<float> y(x.size());
  dequantize(codes.data(), scales.data(), rows, cols, global, y.data());
  ASSERT_EQ(bits(y), bits(expected.values));
  y = x;  // in place
  const auto clipped = fake_quantize(y.data(), rows, cols, global, rule, y.data());
  ASSERT_EQ(bits(y), bits(expected.values));
  const double limit = 2688.0 * global * (1 + 0x1p-20);
  ASSERT_GE(clipped,
            std::count_if(x.begin(), x.end(), [&](float v) { return std::fabs(v) > limit; }));
  ASSERT_LE(clipped, std::count_if(x.begin(), x.end(),
                                   [&](float v) { return std::fabs(v) > 2688.0 * global; }));
}

TEST(Vectors, EqualThePlainDefinition) {
  const std::pair<int, int> shapes[] = {{1, 16}, {3, 32},   {5, 1}, {4, 17},
                                        {7, 31}, {1, 1100}, {9, 48}};
  for (const auto rule : {BlockScale::max, BlockScale::mse, BlockScale::four_over_six})
    for (const auto& kind : kKinds)
      for (const auto& [rows, cols] : shapes)
        for (const auto global_rule : {GlobalScale::pow2, GlobalScale::amax}) {
          std::mt19937 random(static_cast<unsigned>(rows * 1000 + cols));
          std::vector<float> x(static_cast<std::size_t>(rows * cols));
          for (float& v : x) v = kind.draw(random);
          SCOPED_TRACE(std::string(kind.name) + " rule " + std::to_string(static_cast<int>(rule)) +
                       " " + std::to_string(rows) + "x" + std::to_string(cols));
          const float exact = global_scale(amax(x, "x"), global_rule, rule);
          // As it should be, and as stale scales of activations are: much too small, and much too
          // large.
          for (const float factor : {1.0f, 0x1p-5f, 0x1p12f}) {
            const float global = exact * factor;
            if (global < kMinGlobal || !std::isfinite(2700.0f * global)) continue;
            ASSERT_NO_FATAL_FAILURE(expect_plain(x, rows, cols, global, rule));
          }
        }
}

// The pruned search over block scales against all 126, on blocks that hit its bounds.
TEST(Vectors, ScaleSearchEqualsTheExhaustiveOne) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<float> x(64);
    const auto& kind = kKinds[trial % std::size(kKinds)];
    for (float& v : x) v = kind.draw(random);
    if (trial % 3 == 0)
      for (std::size_t i = 1; i < x.size(); ++i)
        x[i] = i % 16 ? x[i] * 1e-3f : x[i];  // one outlier a block
    const float base = global_scale(amax(x, "x"), trial % 2 ? GlobalScale::pow2 : GlobalScale::amax,
                                    BlockScale::mse);
    const float global = std::ldexp(base, std::uniform_int_distribution<int>(-20, 20)(random));
    if (global < kMinGlobal || !std::isfinite(2700.0f * global)) continue;
    SCOPED_TRACE(std::string(kind.name) + " trial " + std::to_string(trial));
    ASSERT_NO_FATAL_FAILURE(expect_plain(x, 4, 16, global, BlockScale::mse));
  }
}

TEST(Vectors, CountsWhatIsClipped) {
  std::vector<float> x(35, 1.0f), y(35);
  x[3] = 2688.0f, x[20] = -2689.0f, x[34] = 1e30f;
  EXPECT_EQ(fake_quantize(x.data(), 1, 35, 1.0f, BlockScale::max, y.data()), 2);
  EXPECT_EQ(y[3], 2688.0f);
  EXPECT_EQ(y[20], -2688.0f);
  EXPECT_EQ(y[34], 2688.0f);
  for (const float amax_value : {7.0f, 0.1f, 3.3333f, 1e-3f}) {  // its own amax never clips
    const float z = amax_value, global = global_scale(z, GlobalScale::amax, BlockScale::max);
    float out;
    EXPECT_EQ(fake_quantize(&z, 1, 1, global, BlockScale::max, &out), 0);
  }
}

TEST(Vectors, NaNStaysNaN) {
  for (int at = 0; at < 20; ++at) {
    std::vector<float> x(20, 1.0f), y(20);
    x[at] = std::numeric_limits<float>::quiet_NaN();
    fake_quantize(x.data(), 1, 20, 1.0f, BlockScale::max, y.data());
    EXPECT_TRUE(std::isnan(y[at])) << at;
  }
}

}  // namespace
}  // namespace qad::nvfp4
