// Masters in two halves: the definition of the split, and that AdamW and shipping see the same
// numbers in either form.
#include <bit>

#include "core/error.h"
#include "ops/adamw.h"
#include "ops/adamw_step.h"
#include "ops/ship.h"
#include "reference.h"

namespace qad::ops {
namespace {

using reference::expect_same;
using reference::random;
using Tensor = at::Tensor;

// Bits of floats: every upper half, which is every sign, exponent and BF16 number, with lower
// halves on and beside the ties and the ends of their range.
template <class F>
void for_many_floats(F&& f) {
  for (std::uint32_t upper = 0; upper < 0x10000; ++upper)
    for (const std::uint32_t lower :
         {0u, 1u, 0x7FFEu, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFEu, 0xFFFFu, upper * 40503u & 0xFFFF})
      f(std::bit_cast<float>(upper << 16 | lower));
}

// FP32 as the halves define it.
Tensor joined(const Master& master) {
  const Tensor high = master.high.view(at::kShort).to(at::kInt);
  return (high * 65536 + master.low.to(at::kInt)).view(at::kFloat);
}

TEST(SplitMaster, GivesEveryNumbersBitsBack) {
  for_many_floats([](float x) {
    const float y = join_master(split_master(x));
    if (std::isnan(x))
      ASSERT_TRUE(std::isnan(y));
    else
      ASSERT_EQ(std::bit_cast<std::uint32_t>(y), std::bit_cast<std::uint32_t>(x));
  });
}

TEST(SplitMaster, HighIsTheNearestBf16AndOfTwoTheLarger) {
  for_many_floats([](float x) {
    const std::uint32_t high = split_master(x).high;
    const float found = std::bit_cast<float>(high << 16);
    if (!std::isfinite(x)) {
      ASSERT_TRUE(std::isnan(x) ? std::isnan(found) : found == x);
      return;
    }
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(std::abs(x));
    const auto bf16 = [](std::uint32_t upper) {  // 2^128 in infinity's place
      return upper == 0x7F80 ? 0x1p128 : double{std::bit_cast<float>(upper << 16)};
    };
    const double below = bf16(bits >> 16), above = bf16((bits >> 16) + 1), magnitude = std::abs(x);
    const bool up = above - magnitude <= magnitude - below;
    ASSERT_EQ(high & 0x7FFF, (bits >> 16) + (up ? 1 : 0)) << x;
    ASSERT_EQ(high >> 15, std::bit_cast<std::uint32_t>(x) >> 31) << x;
  });
}

TEST(SplitMaster, TensorsOfEveryType) {
  const Tensor fp32 = random({5, 77});
  const Master split = split_master(fp32);
  ASSERT_TRUE(split.split());
  EXPECT_EQ(split.high.scalar_type(), at::kBFloat16);
  expect_same(joined(split), fp32, "FP32");
  const Tensor bf16 = fp32.to(at::kBFloat16);
  const Master same = split_master(bf16);
  EXPECT_EQ(same.high.data_ptr(), bf16.data_ptr());
  expect_same(joined(same), bf16.to(at::kFloat), "BF16");
}

// FP32, BF16 or 8-bit moments.
struct State {
  Master master;
  Tensor m, v;
  Moment8 m8, v8;
  State(Master start, int kind) : master(std::move(start)) {
    if (kind == 2)
      m8 = zero_moment8(master.high), v8 = zero_moment8(master.high);
    else
      m = at::zeros(master.high.sizes(), kind == 1 ? at::kBFloat16 : at::kFloat),
      v = at::zeros_like(m);
  }
  Tensor step(const AdamW& a, const Tensor& g, const Tensor& factor = {}) const {
    return m8.codes.defined() ? adamw_(a, master, g, m8, v8, factor)
                              : adamw_(a, master, g, m, v, factor);
  }
  std::vector<Tensor> moments() const {
    if (!m8.codes.defined()) return {m, v};
    return {m8.codes, m8.scales, v8.codes, v8.scales};
  }
};

TEST(SplitMaster, AdamWsBitsAreThoseOfFp32) {
  for (const int kind : {0, 1, 2})
    for (const std::int64_t n : {1, 7, 255, 256, 257, 1000, 70001}) {
      const Tensor start = random({n}) * at::rand({n}).mul(-30).exp2();
      const State plain(start.clone(), kind), split(split_master(start), kind);
      for (int step = 1; step <= 6; ++step) {
        const AdamW a{1e-2, 0.9, 0.95, 1e-8, 0.1, step, 5};
        const Tensor g = random({n}), factor = at::scalar_tensor(0.3, at::kFloat);
        plain.step(a, g, factor);
        const Tensor amax = split.step(a, g, factor);
        expect_same(amax, split.master.high.to(at::kFloat).abs().max(), "amax");
      }
      expect_same(joined(split.master), plain.master.high, "master");
      const auto a = plain.moments(), b = split.moments();
      for (std::size_t i = 0; i < a.size(); ++i) expect_same(b[i], a[i], "moments");
    }
}

TEST(SplitMaster, NanFactorChangesNothing) {
  const State s(split_master(random({1000})), 0);
  const Tensor high = s.master.high.clone(), low = s.master.low.clone();
  const Tensor amax = s.step({1e-3, 0.9, 0.95, 1e-8, 0.1, 1}, at::full({1000}, NAN),
                             at::scalar_tensor(NAN, at::kFloat));
  expect_same(s.master.high, high, "high");
  expect_same(s.master.low, low, "low");
  expect_same(amax, high.to(at::kFloat).abs().max(), "amax");
}

TEST(SplitMaster, WhatIsNotFiniteIsSeenInTheAmaxAndInTheHighHalf) {
  // Of these the first rounds to infinity, the second is a NaN whose bits would round to -0.
  for (const std::uint32_t bits : {0x7F7F8000u, 0x7FFFFFFFu, 0xFF800000u, 0xFFFFFFFFu}) {
    const float x = std::bit_cast<float>(bits);
    const Tensor start = random({300});
    start[299] = x;
    const State s(split_master(start), 0);
    const auto most = s.step({0, 0.9, 0.95, 1e-8, 0, 1}, at::zeros({300})).item<float>();
    const auto high = s.master.high[299].item<float>();
    EXPECT_TRUE(std::isnan(x) ? std::isnan(most) : most == INFINITY) << most;
    EXPECT_TRUE(std::isnan(x) ? std::isnan(high) : std::isinf(high)) << high;
  }
}

TEST(SplitMaster, ShipsAsFp32WhereNothingIsHalfWay) {
  for (const auto rule : {nvfp4::BlockScale::max, nvfp4::BlockScale::four_over_six})
    for (const bool given : {false, true}) {
      // An odd last place is no tie.
      const Tensor master = random({37, 72}).view(at::kInt).bitwise_or(1).view(at::kFloat);
      const Master split = split_master(master);
      const auto ship = [&](const Tensor& from) {
        const Tensor value = at::zeros({37, 72}), global = at::zeros({});
        const Tensor most = master.to(at::kBFloat16).to(at::kFloat).abs().max();
        const Tensor amax =
            ship_(from, value, global, given ? most : Tensor(), rule, nvfp4::GlobalScale::pow2);
        return std::vector<Tensor>{value, global, amax};
      };
      const auto a = ship(master), b = ship(split.high);
      for (std::size_t i = 0; i < a.size(); ++i) expect_same(b[i], a[i], "shipped");
    }
}

TEST(SplitMaster, RefusesWhatDoesNotFit) {
  const AdamW a{1e-3, 0.9, 0.95, 1e-8, 0, 1};
  const Tensor w = random({4, 6}), g = random({4, 6}), m = at::zeros({4, 6}), v = m.clone();
  const Master split = split_master(w);
  EXPECT_THROW(adamw_(a, split.high, g, m, v), Error);
  EXPECT_THROW(adamw_(a, Master(w, split.low), g, m, v), Error);
  EXPECT_THROW(adamw_(a, Master(split.high, split.low.to(at::kInt)), g, m, v), Error);
  EXPECT_THROW(adamw_(a, Master(split.high, split.low.view({24})), g, m, v), Error);
  EXPECT_THROW(adamw_(a, Master(split.high, split.low.t().contiguous().t()), g, m, v), Error);
}

}  // namespace
}  // namespace qad::ops
