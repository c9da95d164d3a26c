// Single codes, scales and published vectors against mathematics and the references' figures.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/error.h"
#include "nvfp4/nvfp4.h"
#include "nvfp4/plain.h"

namespace qad::nvfp4 {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(E2M1, EveryCodeDecodesAndEncodesBack) {
  for (int code = 0; code < 16; ++code) {
    const float value = e2m1_decode(static_cast<std::uint8_t>(code));
    EXPECT_EQ(value, plain::e2m1(code));
    EXPECT_EQ(std::signbit(value), code >= 8);
    // The one exception: -0.0 is written as +0, as the peer does.
    EXPECT_EQ(e2m1_encode(value), code == 8 ? 0 : code);
  }
}

TEST(E2M1, TiesSignsAndSaturation) {
  const struct {
    float x;
    int code;
  } cases[] = {{0.25f, 0},   {0.75f, 2},  {1.25f, 2},  {1.75f, 4},   {2.5f, 4},    {3.5f, 6},
               {5.0f, 6},    {6.0f, 7},   {1e9f, 7},   {kInf, 7},    {-kInf, 15},  {0.0f, 0},
               {-0.0f, 0},   {-0.25f, 8}, {1e-45f, 0}, {-1e-45f, 8}, {-0.75f, 10}, {-1.25f, 10},
               {-1.75f, 12}, {-5.0f, 14}, {-7.0f, 15}};
  for (const auto& [x, code] : cases) {
    EXPECT_EQ(e2m1_encode(x), code) << x;
    if (std::fabs(x) > 0.1f && std::fabs(x) < 6.0f) {  // a neighbour of a tie goes to its own side
      const float out = std::nextafter(x, std::copysign(kInf, x)), in = std::nextafter(x, 0.0f);
      EXPECT_EQ(e2m1_encode(out), plain::encode_e2m1(out)) << out;
      EXPECT_EQ(e2m1_encode(in), plain::encode_e2m1(in)) << in;
    }
  }
}

TEST(E4M3, EveryCodeDecodesAndEncodesBack) {
  for (int code = 0; code < 256; ++code) {
    const float value = e4m3_decode(static_cast<std::uint8_t>(code));
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_EQ(e4m3_encode(value), 0x7F);
      continue;
    }
    EXPECT_EQ(std::fabs(value), plain::e4m3(code & 0x7F));
    EXPECT_EQ(std::signbit(value), code >= 128);
    EXPECT_EQ(e4m3_encode(value), code);
  }
}

TEST(E4M3, Saturates) {
  for (const float x : {447.0f, 464.0f, 465.0f, 1e30f, kInf}) {
    EXPECT_EQ(e4m3_encode(x), 0x7E) << x;
    EXPECT_EQ(e4m3_encode(-x), 0xFE) << x;
  }
}

TEST(BF16, RoundsToNearestEven) {
  EXPECT_EQ(round_to_bf16(1.0f + 0x1p-8f), 1.0f);            // tie to even
  EXPECT_EQ(round_to_bf16(1.0f + 0x3p-8f), 1.0f + 0x1p-6f);  // tie to even, upwards
  EXPECT_EQ(round_to_bf16(1.0f + 0x1.01p-8f), 1.0f + 0x1p-7f);
  EXPECT_EQ(round_to_bf16(std::numeric_limits<float>::max()), kInf);
  EXPECT_TRUE(std::signbit(round_to_bf16(-0.0f)));
  EXPECT_TRUE(std::isnan(round_to_bf16(std::bit_cast<float>(0x7F800001u))));
}

TEST(GlobalScale, FollowsItsRule) {
  using enum BlockScale;
  EXPECT_EQ(std::bit_cast<std::uint32_t>(global_scale(7.0f, GlobalScale::amax, max)), 0x3B2AAAABu);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(global_scale(7.0f, GlobalScale::amax, four_over_six)),
            0x3B955555u);
  for (const int power : {-60, -3, 0, 1, 40}) {
    const float exact = std::ldexp(2688.0f, power);
    EXPECT_EQ(global_scale(exact, GlobalScale::pow2, max), std::ldexp(1.0f, power));
    EXPECT_EQ(global_scale(std::nextafter(exact, kInf), GlobalScale::pow2, max),
              std::ldexp(2.0f, power));
    EXPECT_EQ(global_scale(std::nextafter(exact, 0.0f), GlobalScale::pow2, mse),
              std::ldexp(1.0f, power));
    EXPECT_EQ(global_scale(std::ldexp(1536.0f, power), GlobalScale::pow2, four_over_six),
              std::ldexp(1.0f, power));
  }
  for (const auto rule : {GlobalScale::pow2, GlobalScale::amax}) {
    EXPECT_EQ(global_scale(0.0f, rule, max), 1.0f);
    EXPECT_EQ(global_scale(1e-45f, rule, max), kMinGlobal);
    EXPECT_THROW(global_scale(kInf, rule, max), Error);
    EXPECT_THROW(global_scale(kNaN, rule, max), Error);
    EXPECT_THROW(global_scale(-1.0f, rule, max), Error);
  }
}

TEST(Amax, FindsTheLargestMagnitude) {
  EXPECT_EQ(amax({}, "w"), 0.0f);
  EXPECT_EQ(amax(std::vector<float>{-0.0f, 0.0f}, "w"), 0.0f);
  EXPECT_EQ(amax(std::vector<float>{1.0f, -3.0f, 2.0f}, "w"), 3.0f);
  EXPECT_EQ(amax(std::vector<float>{-1e-45f, 0.0f}, "w"), 1e-45f);
}

TEST(Amax, NamesTheTensorThatIsNotFinite) {
  for (const float bad : {kInf, -kInf, kNaN, -kNaN}) {
    std::vector<float> x(100, 1.0f);
    x[37] = bad;
    try {
      amax(x, "model.layers.3.mlp.up_proj.weight");
      FAIL() << "expected an Error for " << bad;
    } catch (const Error& e) {
      EXPECT_NE(std::strstr(e.what(), "model.layers.3.mlp.up_proj.weight"), nullptr) << e.what();
      EXPECT_NE(std::strstr(e.what(), "element 37"), nullptr) << e.what();
    }
  }
}

// With a power-of-two global scale every value is a BF16 number, down to the smallest global scale.
TEST(PowerOfTwoGlobal, EveryValueIsExactInBF16) {
  for (const float global : {1.0f, 0x1p-20f, 0x1p30f, kMinGlobal})
    for (int code = 0; code < 16; ++code)
      for (int scale = 1; scale <= 0x7E; ++scale) {
        const double exact = plain::e2m1(code) * plain::e4m3(scale) * global;
        const auto packed = static_cast<std::uint8_t>(code);
        const std::uint8_t codes[8] = {packed}, scales[1] = {static_cast<std::uint8_t>(scale)};
        float y[16];
        dequantize(codes, scales, 1, 16, global, y);
        ASSERT_EQ(y[0], exact);
        ASSERT_EQ(round_to_bf16(y[0]), y[0]);
        ASSERT_TRUE(y[0] == 0.0f || std::isnormal(y[0]));
      }
}

struct Golden {
  const char* what;
  std::vector<float> x;
  float global;
  BlockScale rule;
  std::vector<std::uint8_t> codes, scales;
};

std::vector<float> multi_block() {
  std::vector<float> x = {.5f, -1.25f, 3, -6.5f,  .03125f, 0, -.25f, 2.25f,
                          7,   -.75f,  1, .1875f, -3.5f,   5, .25f,  -.125f};
  for (int i = 0; i < 16; ++i) x.push_back(i == 8 ? .046875f : i == 3 ? -.09375f : x[i] / 64);
  x.resize(48);
  for (const float v :
       {1., 2., -3., 3.5, .75, -.5, 1.5, 2.5, -1.75, 3.25, .125, -2., 3., -3.375, .875, 1.125})
    x.push_back(v);
  return x;
}

std::vector<float> tie_block() {
  return {6,     .25f,  .75f,   1.25f,  1.75f, 2.5f,  3.5f, 5,
          -.25f, -.75f, -1.25f, -1.75f, -2.5f, -3.5f, -5,   -0.0f};
}

std::vector<float> tiny_block() {
  std::vector<float> x;
  for (int i = -8; i < 8; ++i) x.push_back(static_cast<float>(i) * 1e-6f);
  return x;
}

TEST(Quantize, PublishedVectors) {
  const Golden cases[] = {
      {"four blocks, max",
       multi_block(),
       std::bit_cast<float>(0x3B2AAAABu),
       BlockScale::max,
       {0xa1, 0xf5, 0x00, 0x48, 0x97, 0x02, 0x6d, 0x80, 0xa1, 0xf5, 0x00,
        0x48, 0xa5, 0x02, 0x6e, 0x80, 0,    0,    0,    0,    0,    0,
        0,    0,    0x53, 0x7f, 0xa3, 0x65, 0x7d, 0xd0, 0xf7, 0x43},
       {0x7E, 0x4C, 0x38, 0x76}},
      {"four blocks, four over six",
       multi_block(),
       std::bit_cast<float>(0x3B955555u),
       BlockScale::four_over_six,
       {0xa1, 0xf5, 0x00, 0x48, 0x97, 0x02, 0x6d, 0x80, 0xa1, 0xe4, 0x00,
        0x38, 0x94, 0x01, 0x5c, 0x80, 0,    0,    0,    0,    0,    0,
        0,    0,    0x42, 0x6d, 0x92, 0x53, 0x6c, 0xc0, 0xe5, 0x32},
       {0x78, 0x4A, 0x38, 0x74}},
      {"ties",
       tie_block(),
       1.0f,
       BlockScale::max,
       {0x07, 0x22, 0x44, 0x66, 0xa8, 0xca, 0xec, 0x0e},
       {0x38}},
      {"zeros",
       std::vector<float>(16),
       3.0f,
       BlockScale::max,
       std::vector<std::uint8_t>(8),
       {0x38}},
      {"zeros, mse",
       std::vector<float>(16),
       3.0f,
       BlockScale::mse,
       std::vector<std::uint8_t>(8),
       {0x38}},
  };
  for (const auto& g : cases) {
    std::vector<std::uint8_t> codes(g.codes.size()), scales(g.scales.size());
    quantize(g.x.data(), 1, static_cast<std::int64_t>(g.x.size()), g.global, g.rule, codes.data(),
             scales.data());
    EXPECT_EQ(scales, g.scales) << g.what;
    EXPECT_EQ(codes, g.codes) << g.what;
  }
}

// Tiny blocks keep their values where the peer's simulation flushes them: scale 0x02, then the
// floor 0x01.
TEST(Quantize, TinyBlocksStopAtTheSmallestScale) {
  const auto x = tiny_block();
  std::vector<std::uint8_t> codes(8), scales(1);
  quantize(x.data(), 1, 16, 1.0f / 2688.0f, BlockScale::max, codes.data(), scales.data());
  EXPECT_EQ(scales[0], 0x02);
  EXPECT_NE(codes, std::vector<std::uint8_t>(8));
  quantize(x.data(), 1, 16, 100.0f / 2688.0f, BlockScale::max, codes.data(), scales.data());
  EXPECT_EQ(scales[0], 0x01);
  EXPECT_EQ(codes, (std::vector<std::uint8_t>{0x88, 0x88, 0x88, 0x88, 0, 0, 0, 0}));
}

TEST(Quantize, RefusesGlobalScalesOutOfRange) {
  std::vector<float> x(16, 1.0f), y(16);
  std::uint8_t codes[8], scales[1];
  for (const float global : {0.0f, -1.0f, kInf, kNaN, 1e-40f, 2e35f}) {
    EXPECT_THROW(quantize(x.data(), 1, 16, global, BlockScale::max, codes, scales), Error)
        << global;
    EXPECT_THROW(fake_quantize(x.data(), 1, 16, global, BlockScale::max, y.data()), Error)
        << global;
  }
}

}  // namespace
}  // namespace qad::nvfp4
