// Shipping: the value is the format's fake quantisation of bf16(master), and the global scale only
// ever rises to what the weight demands.
#include "ops/ship.h"

#include <ATen/Parallel.h>

#include "core/error.h"
#include "reference.h"

namespace qad::ops {
namespace {

using nvfp4::BlockScale, nvfp4::GlobalScale;
using reference::expect_same;
using reference::random;
using Tensor = at::Tensor;

constexpr BlockScale kBlockRules[] = {BlockScale::max, BlockScale::mse, BlockScale::four_over_six};

Tensor scalar(double x) {
  return at::scalar_tensor(x, at::kFloat);
}

Tensor expected_value(const Tensor& master, float global, BlockScale rule) {
  const Tensor y = master.to(at::kBFloat16).to(at::kFloat).contiguous();
  const std::int64_t cols = y.size(-1);
  nvfp4::fake_quantize(y.const_data_ptr<float>(), y.numel() / cols, cols, global, rule,
                       y.mutable_data_ptr<float>());
  return y;
}

TEST(Ship, IsTheFormatsRoundingUnderARisingScale) {
  for (const auto& [rows, cols] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 16}, {5, 33}, {64, 576}, {2, 40000}})
    for (const BlockScale rule : kBlockRules)
      for (const GlobalScale global_rule : {GlobalScale::pow2, GlobalScale::amax})
        for (const bool given : {false, true}) {
          const Tensor master = random({rows, cols}, 0.03), value = at::empty({rows, cols});
          const Tensor most = master.to(at::kBFloat16).to(at::kFloat).abs().max();
          const Tensor global = scalar(0);
          const auto ship = [&](const Tensor& from, const Tensor& amax) {
            return ship_(from, value, global, given ? amax : Tensor(), rule, global_rule);
          };
          // Not chosen yet: it is chosen.
          const float needed = nvfp4::global_scale(most.item<float>(), global_rule, rule);
          expect_same(ship(master, most), most, "amax");
          EXPECT_EQ(global.item<float>(), needed);
          expect_same(value, expected_value(master, needed, rule), "value");
          // A smaller weight leaves it, a larger one raises it.
          ship(master / 64, most / 64);
          EXPECT_EQ(global.item<float>(), needed);
          expect_same(value, expected_value(master / 64, needed, rule), "smaller");
          expect_same(ship(master * 8, most * 8), most * 8, "amax");
          const float more = nvfp4::global_scale(8 * most.item<float>(), global_rule, rule);
          EXPECT_EQ(global.item<float>(), more);
          expect_same(value, expected_value(master * 8, more, rule), "larger");
        }
}

Tensor some_scales(std::int64_t rows, std::int64_t cols) {
  return at::randint(1, 0x7F, {rows, nvfp4::blocks_per_row(cols)}, at::kByte);
}

TEST(Ship, UnderChosenScalesIsTheFormatsRoundingToo) {
  for (const auto& [rows, cols] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {5, 33}, {64, 576}, {2, 40000}})
    for (const bool half : {false, true}) {
      Tensor master = random({rows, cols}, 0.03);
      if (half) master = master.to(at::kBFloat16);
      const Tensor value = at::empty({rows, cols}), global = scalar(0x1p-12);
      const Tensor scales = some_scales(rows, cols);
      const Tensor expected = master.to(at::kBFloat16).to(at::kFloat).contiguous();
      expect_same(ship_with_scales_(master, value, global, scales), expected.abs().max(), "amax");
      nvfp4::fake_quantize_with_scales(expected.const_data_ptr<float>(), rows, cols, 0x1p-12f,
                                       scales.const_data_ptr<std::uint8_t>(),
                                       expected.mutable_data_ptr<float>());
      expect_same(value, expected, "value");
      // What outgrows the scales changes neither them nor the global scale.
      const Tensor before = scales.clone();
      ship_with_scales_(master * 1000, value, global, scales);
      EXPECT_TRUE(at::equal(scales, before));
      EXPECT_EQ(global.item<float>(), 0x1p-12f);
    }
}

TEST(Ship, AListMayHoldBoth) {
  const Tensor a = random({7, 48}), b = random({5, 32}), scales = some_scales(7, 48);
  for (const bool given : {false, true}) {
    const Tensor va = at::empty_like(a), vb = at::empty_like(b), one = at::empty_like(a),
                 two = at::empty_like(b), ga = scalar(0x1p-9), gb = scalar(0), g2 = scalar(0);
    const Tensor most = at::stack({a.to(at::kBFloat16).to(at::kFloat).abs().max(),
                                   b.to(at::kBFloat16).to(at::kFloat).abs().max()});
    const Tensor seen = ship_({{a, va, ga, BlockScale::max, scales}, {b, vb, gb, BlockScale::mse}},
                              given ? most : Tensor(), GlobalScale::pow2);
    expect_same(seen, most, "amax");
    ship_with_scales_(a, one, ga, scales);
    ship_(b, two, g2, {}, BlockScale::mse, GlobalScale::pow2);
    expect_same(va, one, "chosen");
    expect_same(vb, two, "by rule");
    EXPECT_EQ(gb.item<float>(), g2.item<float>());
  }
}

TEST(Ship, WhatIsNotFiniteIsSaidAndChangesNoScale) {
  const auto amax_of = [](double bad) {
    const Tensor master = random({4, 32}), value = at::empty({4, 32}), global = scalar(0.5);
    master[2][3] = bad;
    const float most =
        ship_(master, value, global, {}, BlockScale::max, GlobalScale::pow2).item<float>();
    EXPECT_EQ(global.item<float>(), 0.5f);
    return most;
  };
  EXPECT_TRUE(std::isnan(amax_of(NAN)));
  EXPECT_EQ(amax_of(-INFINITY), INFINITY);
  EXPECT_EQ(amax_of(3e38), INFINITY);  // finite, but no global scale reaches it
}

TEST(Ship, ThreadsChangeNoBit) {
  const Tensor master = random({3000, 66});
  const auto run = [&](int threads) {
    at::set_num_threads(threads);
    const Tensor value = at::empty_like(master), global = scalar(0);
    ship_(master, value, global, {}, BlockScale::max, GlobalScale::pow2);
    return value;
  };
  const int threads = at::get_num_threads();
  const Tensor one = run(1), two = run(2);
  at::set_num_threads(threads);
  expect_same(one, two, "threads");
}

TEST(Ship, RefusesWhatDoesNotFit) {
  const Tensor master = random({4, 32}), value = at::empty({4, 32}), global = scalar(1);
  const auto ship = [&](const Tensor& from, const Tensor& to, const Tensor& scale) {
    ship_(from, to, scale, {}, BlockScale::max, GlobalScale::pow2);
  };
  EXPECT_THROW(ship(master, master, global), Error);
  EXPECT_THROW(ship(master, at::empty({4, 16}), global), Error);
  EXPECT_THROW(ship(master.t(), at::empty({32, 4}), global), Error);
  EXPECT_THROW(ship(master, value.to(at::kBFloat16), global), Error);
  EXPECT_THROW(ship(master, value, at::ones({2})), Error);
}

}  // namespace
}  // namespace qad::ops
