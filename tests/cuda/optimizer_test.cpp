// What the optimiser's table of cases cannot say: what is not finite, unaligned memory, gradients
// of both types in one norm, lists of tensors, and many steps in a row with the CPU beside the GPU.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "cuda/harness.h"
#include "ops/adamw.h"
#include "ops/ship.h"

namespace qad::cuda::test {
namespace {

using at::Tensor;
using nvfp4::BlockScale, nvfp4::GlobalScale;

Tensor gpu(double x) {
  return at::scalar_tensor(x, at::TensorOptions(at::kCUDA).dtype(at::kFloat));
}

TEST(Optimizer, NotFiniteWeightsAreSaid) {
  for (const auto& [bad, expected] :
       {std::pair<double, float>{NAN, NAN}, {-INFINITY, INFINITY}, {3e38, INFINITY}}) {
    const Tensor zero = at::zeros({10, 48}, at::kCUDA), master = random({10, 48}).cuda();
    master[7][31] = bad;
    const Tensor value = at::zeros({10, 48}, zero.options().dtype(at::kBFloat16)), global = gpu(2);
    const float shipped =
        ops::ship_(master, value, global, {}, BlockScale::max, GlobalScale::pow2).item<float>();
    const Tensor amax = ops::adamw_({1e-3, 0.9, 0.95, 1e-8, 0, 1}, master, zero, zero.clone(),
                                    zero.clone(), gpu(1));
    const float passed_on =
        ops::ship_(master, value, global, amax, BlockScale::max, GlobalScale::pow2).item<float>();
    const ops::Master split = ops::split_master(master);
    const Tensor most =
        ops::adamw_({1e-3, 0.9, 0.95, 1e-8, 0, 1}, split, zero, zero.clone(), zero.clone(), gpu(1));
    const auto ship_high = [&](const Tensor& amax) {
      return ops::ship_(split.high, value, global, amax, BlockScale::max, GlobalScale::pow2)
          .item<float>();
    };
    for (const float found : {shipped, passed_on, ship_high({}), ship_high(most)})
      EXPECT_TRUE(std::isnan(expected) ? std::isnan(found) : found == expected) << found;
    EXPECT_EQ(global.item<float>(), 2);
  }
}

TEST(Optimizer, NotFiniteGradientsReachTheNorm) {
  const Tensor fine = random({70000}).cuda(), bad = random({5}).cuda().to(at::kBFloat16);
  EXPECT_TRUE(std::isfinite(ops::gradient_norm({fine, bad}).item<double>()));
  bad[4] = INFINITY;
  EXPECT_EQ(ops::gradient_norm({fine, bad}).item<double>(), INFINITY);
  bad[4] = NAN;
  EXPECT_TRUE(std::isnan(ops::gradient_norm({bad, fine}).item<double>()));
  EXPECT_EQ(ops::gradient_norm({at::zeros({0}, at::kCUDA)}).item<double>(), 0);
  // beyond FP32 when squared
  EXPECT_NEAR(ops::gradient_norm({at::full({16}, 1e30f, at::kCUDA)}).item<double>() / 4e30, 1,
              1e-6);
}

TEST(Optimizer, UnalignedMemory) {
  const Tensor storage = random({4, 1001}).cuda(), g = random({1000}).cuda();
  const Tensor start = at::randn({1000}).cuda();
  const auto row = [&](int i, bool shifted) {
    return shifted ? storage[i].narrow(0, 1, 1000) : storage[i].narrow(0, 1, 1000).clone();
  };
  storage.select(0, 2).abs_();
  std::vector<Tensor> results;
  for (const bool shifted : {false, true}) {  // the second changes what the first has cloned
    const Tensor w = row(0, shifted), m = row(1, shifted), v = row(2, shifted);
    const Tensor amax = ops::adamw_({1e-3, 0.9, 0.95, 1e-8, 0.1, 2}, w, g, m, v);
    const Tensor value = row(3, shifted), global = gpu(0);
    ops::ship_(w.view({10, 100}), value.view({10, 100}), global, amax, BlockScale::max,
               GlobalScale::pow2);
    const ops::Master whole = ops::split_master(start);
    const Tensor space = at::zeros({2, 1008}, storage.options().dtype(at::kShort));
    const auto place = [&](int i, const Tensor& half) {
      const Tensor to = space[i].narrow(0, shifted ? 1 : 0, 1000).view(half.scalar_type());
      to.copy_(half);
      return to;
    };
    const ops::Master split(place(0, whole.high), place(1, whole.low));
    const Tensor most = ops::adamw_({1e-3, 0.9, 0.95, 1e-8, 0.1, 3}, split, g, m, v);
    ops::ship_(split.high.view({10, 100}), value.view({10, 100}), global, most, BlockScale::max,
               GlobalScale::pow2);
    for (const Tensor& t : {w, m, v, amax, value, global, split.high, split.low, most})
      results.push_back(t.clone());
    results.push_back(ops::gradient_norm({w}));
  }
  for (std::size_t i = 0; i < 9; ++i) EXPECT_TRUE(at::equal(results[i], results[i + 10])) << i;
  EXPECT_NEAR((results[9] / results[19]).item<double>(), 1, 1e-12);
}

// 50 steps of every kind of masters and moments, gradients in BF16: every bit of masters, values
// and scales.
TEST(Optimizer, FiftyStepsAreTheCpus) {
  constexpr std::int64_t rows = 40, cols = 100;
  for (const bool split : {false, true})
    for (const int kind : {0, 1, 2}) {
      const auto start = [&](const Tensor& master) {
        const auto type = kind == 1 ? at::kBFloat16 : at::kFloat;
        struct State {
          ops::Master master;
          Tensor m, v, value, global;
          ops::Moment8 m8, v8;
        };
        return State{split ? ops::split_master(master) : ops::Master(master),
                     at::zeros_like(master, type),
                     at::zeros_like(master, type),
                     at::zeros_like(master),
                     at::zeros({}, master.options()),
                     ops::zero_moment8(master),
                     ops::zero_moment8(master)};
      };
      const Tensor from = random({rows, cols}, 0.05);
      auto cpu = start(from.clone()), card = start(from.cuda());
      for (int step = 1; step <= (few_sizes() ? 3 : 50); ++step) {
        const ops::AdamW a{1e-2, 0.9, 0.95, 1e-8, 0.01, step, 123456789012345ull};
        const Tensor g = random({rows, cols});
        const auto update = [&](auto& s, const Tensor& grad) {
          const Tensor amax = kind == 2 ? ops::adamw_(a, s.master, grad, s.m8, s.v8)
                                        : ops::adamw_(a, s.master, grad, s.m, s.v);
          ops::ship_(s.master.high, s.value, s.global, amax, BlockScale::four_over_six,
                     GlobalScale::pow2);
        };
        update(cpu, g);
        update(card, g.to(at::kCUDA, at::kBFloat16));
      }
      EXPECT_TRUE(at::equal(cpu.master.high, card.master.high.cpu())) << split << kind;
      EXPECT_TRUE(!split || at::equal(cpu.master.low, card.master.low.cpu())) << kind;
      EXPECT_TRUE(at::equal(cpu.value, card.value.cpu())) << split << kind;
      EXPECT_TRUE(at::equal(cpu.global, card.global.cpu())) << split << kind;
    }
}

// Many tensors at once, some empty, more than a launch takes, of both rules: each as by itself.
TEST(Optimizer, ListsAreTheirTensors) {
  constexpr int items = 150;
  const ops::AdamW a{1e-2, 0.9, 0.95, 1e-8, 0, 4, 0};
  for (const bool split : {false, true})
    for (const int kind : {0, 1, 2}) {
      const auto type = kind == 1 ? at::kBFloat16 : at::kFloat;
      std::vector<ops::AdamWItem> many, one;
      std::vector<ops::ShipItem> shipped, alone;
      for (int i = 0; i < items; ++i) {
        const std::int64_t rows = i % 7 == 3 ? 0 : 1 + i % 50, cols = 16 * (1 + i % 5) + i % 2;
        const Tensor start = random({rows, cols}, 0.05).cuda();
        const Tensor grad = random({rows, cols}).cuda();
        for (auto* to : {&many, &one}) {
          ops::AdamWItem item{split ? ops::split_master(start) : ops::Master(start.clone()),
                              grad,
                              {},
                              {},
                              {},
                              {},
                              0.01 * (i % 3),
                              static_cast<std::uint64_t>(1000 + i)};
          if (kind == 2)
            item.m8 = ops::zero_moment8(start), item.v8 = ops::zero_moment8(start);
          else
            item.m = at::zeros_like(start, type), item.v = at::zeros_like(start, type);
          to->push_back(item);
          (to == &many ? shipped : alone)
              .push_back({item.master.high, at::zeros_like(start, at::kBFloat16),
                          at::zeros({}, start.options()),
                          i < 70 ? BlockScale::max : BlockScale::four_over_six});
        }
      }
      const Tensor factor = at::full({}, 0.5f).cuda();
      const Tensor amax = ops::adamw_(a, many, factor);
      const Tensor out = ops::ship_(shipped, amax, GlobalScale::pow2);
      for (int i = 0; i < items; ++i) {
        ops::AdamWItem& o = one[i];
        ops::AdamW step = a;
        step.weight_decay = o.weight_decay;
        step.seed = o.seed;
        const Tensor most = kind == 2 ? ops::adamw_(step, o.master, o.grad, o.m8, o.v8, factor)
                                      : ops::adamw_(step, o.master, o.grad, o.m, o.v, factor);
        const ops::ShipItem& s = alone[i];
        ops::ship_(s.master, s.value, s.global, most, s.rule, GlobalScale::pow2);
        EXPECT_TRUE(at::equal(many[i].master.high, o.master.high)) << split << kind << i;
        EXPECT_TRUE(!split || at::equal(many[i].master.low, o.master.low)) << split << kind << i;
        EXPECT_TRUE(at::equal(shipped[i].value, s.value)) << split << kind << i;
        EXPECT_TRUE(at::equal(shipped[i].global, s.global)) << split << kind << i;
        EXPECT_TRUE(at::equal(out[i], amax[i])) << split << kind << i;
      }
    }
}

}  // namespace
}  // namespace qad::cuda::test
