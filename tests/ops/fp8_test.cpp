// FP8 against the plain definition of E4M3 (tests/nvfp4/plain.h), and against nvfp4's own codes,
// which are what an export writes.
#include "ops/fp8.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "nvfp4/plain.h"
#include "ops/ship.h"

namespace qad::ops {
namespace {

using at::Tensor;
using ::testing::HasSubstr;

// Every finite BF16 number, and the middles between neighbours of E4M3, which no BF16 number need
// be.
Tensor numbers() {
  std::vector<float> all;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits)
    if (const float x = std::bit_cast<float>(bits << 16); std::isfinite(x)) all.push_back(x);
  for (int code = 0; code < 126; ++code)
    for (const double sign : {1.0, -1.0}) {
      const auto middle =
          static_cast<float>(sign * (plain::e4m3(code) + plain::e4m3(code + 1)) / 2);
      for (const float x :
           {middle, std::nextafterf(middle, 0), std::nextafterf(middle, sign * 1e9f)})
        all.push_back(x);
    }
  return at::tensor(all);
}

double nearest_e4m3(double x) {
  const double value = plain::e4m3(plain::nearest(std::min(std::abs(x), 448.0), 126, plain::e4m3));
  return std::signbit(x) ? -value : value;
}

TEST(Fp8, RoundsToTheNearestValueAndTiesToEven) {
  const Tensor x = numbers();
  for (const float scale : {1.0f, 0.25f, 0x1p-70f, 0.0123f}) {
    const Tensor y = through_e4m3(x, at::tensor(scale));
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < x.numel(); ++i) {
      const float from = x.const_data_ptr<float>()[i] / scale, got = y.const_data_ptr<float>()[i];
      const float want = static_cast<float>(nearest_e4m3(from)) * scale;
      wrong += got != want || std::signbit(got) != std::signbit(want);
      wrong += nvfp4::e4m3_decode(nvfp4::e4m3_encode(from)) * scale != got;
    }
    EXPECT_EQ(wrong, 0) << scale;
    // As other devices do it.
    const Tensor s = at::tensor(scale);
    EXPECT_TRUE(
        at::equal(y, x.div(s).clamp(-448, 448).to(at::kFloat8_e4m3fn).to(at::kFloat).mul(s)));
  }
}

TEST(Fp8, NansStay) {
  for (const std::uint32_t bits : {0x7FC00000u, 0x7FFFFFFFu, 0xFFFFFFFFu, 0x7F800001u}) {
    const Tensor y = through_e4m3(at::tensor({std::bit_cast<float>(bits), 1.0f}), at::tensor(1.0f));
    EXPECT_TRUE(std::isnan(y[0].item<float>())) << bits;
    EXPECT_EQ(y[1].item<float>(), 1.0f);
  }
}

TEST(Fp8, ScalesAreModelOptsOrThePowerOfTwoAbove) {
  using nvfp4::GlobalScale;
  for (const float amax : {1e-35f, 0.3f, 1.0f, 448.0f, 449.0f, 1e20f}) {
    const float exact = std::max(amax / 448.0f, 0x1p-99f),
                pow2 = fp8_scale(amax, GlobalScale::pow2);
    EXPECT_EQ(fp8_scale(amax, GlobalScale::amax), exact) << amax;
    int exponent = 0;
    EXPECT_EQ(std::frexp(pow2, &exponent), 0.5f) << amax;
    EXPECT_GE(pow2, exact) << amax;
    EXPECT_LT(pow2, 2 * exact) << amax;
  }
  EXPECT_EQ(fp8_scale(0, GlobalScale::amax), 1.0f);
  EXPECT_THROW(fp8_scale(NAN, GlobalScale::pow2), Error);
  EXPECT_THROW(fp8_scale(-1, GlobalScale::pow2), Error);
}

TEST(Fp8, InputsAreRoundedCountedAndDifferentiatedStraightThrough) {
  at::manual_seed(3);
  const Tensor clipped = at::zeros({}, at::kLong);
  const Tensor x = at::randn({40, 24}).requires_grad_();
  const double scale = 2.0 / 448;  // 2 is two standard deviations
  const Tensor y = fake_quantize_fp8(x, scale, clipped);
  EXPECT_TRUE(at::equal(y, through_e4m3(x.detach(), at::tensor(static_cast<float>(scale)))));
  const auto beyond = x.detach().abs().gt(448 * scale).sum().item<std::int64_t>();
  EXPECT_GT(beyond, 0);
  EXPECT_EQ(clipped.item<std::int64_t>(), beyond);
  const Tensor weight = at::randn({40, 24});
  y.mul(weight).sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), weight));  // saturated ones too
  EXPECT_THROW(fake_quantize_fp8(x, 0, clipped), Error);
}

TEST(Fp8, EachExpertsRowsHaveItsScale) {
  at::manual_seed(4);
  const Tensor x = at::randn({10, 16}).requires_grad_();
  const Tensor clipped = at::zeros({3}, at::kLong), offsets = at::tensor({0, 4, 4, 10}, at::kInt);
  const std::vector<double> scales{0.5 / 448, 1, 4.0 / 448};
  const Tensor y = fake_quantize_fp8(x, scales, offsets, clipped);
  const auto alone = [&](std::int64_t from, std::int64_t rows, double scale) {
    return through_e4m3(x.detach().narrow(0, from, rows), at::tensor(static_cast<float>(scale)));
  };
  EXPECT_TRUE(at::equal(y.narrow(0, 0, 4), alone(0, 4, scales[0])));
  EXPECT_TRUE(at::equal(y.narrow(0, 4, 6), alone(4, 6, scales[2])));
  EXPECT_EQ(clipped[0].item<std::int64_t>(),
            x.narrow(0, 0, 4).abs().gt(0.5).sum().item<std::int64_t>());
  EXPECT_EQ(clipped[1].item<std::int64_t>(), 0);
  y.sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), at::ones({10, 16})));
  EXPECT_THROW(fake_quantize_fp8(x, scales, at::tensor({0, 4, 4, 9}, at::kInt), clipped), Error);
}

TEST(Fp8, ScalesOfWeightsRiseAndNeverFall) {
  at::manual_seed(5);
  Tensor w = at::randn({8, 32});
  Tensor value = at::empty_like(w), scale = at::zeros({});
  for (const auto rule : {nvfp4::GlobalScale::amax, nvfp4::GlobalScale::pow2}) {
    scale.zero_();
    const float amax = w.to(at::kBFloat16).to(at::kFloat).abs().max().item<float>();
    EXPECT_EQ(ship_fp8_(w, value, scale, rule).item<float>(), amax);
    EXPECT_EQ(scale.item<float>(), fp8_scale(amax, rule));
    EXPECT_TRUE(at::equal(value, through_e4m3(w.to(at::kBFloat16), scale)));
    const Tensor before = scale.clone();
    ship_fp8_(w.div(8), value, scale, rule);
    EXPECT_TRUE(at::equal(scale, before));
    EXPECT_TRUE(at::equal(value, through_e4m3(w.div(8).to(at::kBFloat16), scale)));
    // In a list beside NVFP4, whose bits stay.
    Tensor other = at::empty_like(w), alone = at::empty_like(w);
    Tensor global = at::zeros({}), global_alone = at::zeros({});
    ship_({{w, other, global, nvfp4::BlockScale::max},
           {w.mul(4), value, scale, nvfp4::BlockScale::max, {}, Precision::fp8}},
          {}, rule);
    ship_(w, alone, global_alone, {}, nvfp4::BlockScale::max, rule);
    EXPECT_TRUE(at::equal(other, alone));
    EXPECT_EQ(scale.item<float>(), fp8_scale(4 * amax, rule));
  }
  w[3][4] = std::numeric_limits<float>::quiet_NaN();
  const Tensor before = scale.clone();
  EXPECT_TRUE(std::isnan(ship_fp8_(w, value, scale, nvfp4::GlobalScale::pow2).item<float>()));
  EXPECT_TRUE(at::equal(scale, before));
}

}  // namespace
}  // namespace qad::ops
