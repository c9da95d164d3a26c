// Operators on rows (embedding, linear, fake quantisation, norm, rotary embedding, SwiGLU) and the
// vectorised exponentials, against double formulas and PyTorch's autograd of them.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "core/error.h"
#include "ops/ops.h"
#include "ops/pack.h"
#include "ops/simd.h"
#include "reference.h"

namespace qad::ops {
namespace {

using reference::double_leaf;
using reference::expect_near;
using reference::leaf;
using reference::random;
using Tensor = at::Tensor;

struct RowShape {
  std::int64_t rows, cols;
};
// one element, vector tails, the shapes of the two benchmark models
const RowShape kShapes[] = {{1, 1}, {3, 7}, {2, 16}, {5, 33}, {130, 64}, {1000, 24}, {17, 576}};

TEST(Simd, ExponentialsAreWithinTwoUlp) {
  const FloatTag d;
  const std::int64_t n = 1 << 20;
  for (const bool base2 : {true, false}) {
    const double low = base2 ? -125.9 : -86.9, high = base2 ? 125.9 : 86.9;
    std::vector<float> x(n), y(n);
    for (std::int64_t i = 0; i < n; ++i)
      x[i] = static_cast<float>(low + (high - low) * static_cast<double>(i) / n);
    for_lanes(d, n, [&](std::int64_t i, std::int64_t lanes) {
      const auto v = load(d, x.data() + i, lanes);
      store(d, base2 ? exp2(d, v) : exp(d, v), y.data() + i, lanes);
    });
    double worst = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const double exact = base2 ? std::exp2(double{x[i]}) : std::exp(double{x[i]});
      const auto nearest = static_cast<float>(exact);
      const double ulp = std::nextafter(nearest, INFINITY) - nearest;
      worst = std::max(worst, std::abs(y[i] - exact) / ulp);
    }
    EXPECT_LE(worst, 2) << (base2 ? "exp2" : "exp");
  }
}

TEST(Simd, ExponentialsAtTheEnds) {
  const FloatTag d;
  const auto at = [&](float x) { return hn::GetLane(exp(d, hn::Set(d, x))); };
  const auto at2 = [&](float x) { return hn::GetLane(exp2(d, hn::Set(d, x))); };
  EXPECT_EQ(at(0), 1);
  EXPECT_EQ(at2(0), 1);
  EXPECT_EQ(at(-INFINITY), 0);
  EXPECT_EQ(at2(-INFINITY), 0);
  EXPECT_EQ(at(-1e30f), 0);
  EXPECT_EQ(at2(-1e30f), 0);
  EXPECT_TRUE(std::isfinite(at(1e30f)) && at(1e30f) > 1e38f);
}

TEST(Embedding, RowsAndTheirGradient) {
  for (const std::int64_t cols : {1, 5, 64, 100}) {
    const Tensor w = leaf(random({11, cols})), ids = at::randint(0, 11, {97}, at::kLong);
    const Tensor y = ops::embedding(w, ids), g = random({97, cols});
    reference::expect_same(y, w.index_select(0, ids), "rows");
    y.backward(g);
    const Tensor expected = at::zeros({11, cols}, at::kDouble).index_add(0, ids, g.to(at::kDouble));
    expect_near(w.grad(), expected, 97, "gradient");  // at most 97 additions
  }
  const Tensor w = random({3, 4});
  EXPECT_THROW(ops::embedding(w, at::full({1}, 3, at::kLong)), Error);
  EXPECT_THROW(ops::embedding(w, at::full({1}, -1, at::kLong)), Error);
  EXPECT_THROW(ops::embedding(w, at::zeros({1}, at::kInt)), Error);
}

TEST(Embedding, GradientAddedToOneThatExists) {
  const Tensor ids = at::tensor({2, 0, 2, 2}, at::kLong), g = random({4, 5});
  const auto add = [](const Tensor& into, const Tensor& grad, const Tensor& rows) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    c10::Dispatcher::singleton()
        .findSchemaOrThrow("qad::embedding_backward_", "")
        .typed<void(const Tensor&, const Tensor&, const Tensor&)>()
        .call(into, grad, rows);
  };
  const Tensor into = random({3, 5});
  Tensor expected = into.clone();
  for (std::int64_t t = 0; t < 4; ++t) expected[ids[t].item<std::int64_t>()] += g[t];
  add(into, g, ids);
  reference::expect_same(into, expected, "token by token");
  EXPECT_THROW(add(into, g, at::tensor({2, 0, 3, 2}, at::kLong)), Error);
  EXPECT_THROW(add(into, g.narrow(0, 0, 3), ids), Error);
}

TEST(Linear, ProductAndGradients) {
  for (const auto& [rows, cols] : kShapes)
    for (const bool with_bias : {false, true}) {
      const Tensor x = leaf(random({rows, cols})), w = leaf(random({9, cols}));
      const Tensor b = with_bias ? leaf(random({9})) : Tensor();
      const Tensor xd = double_leaf(x), wd = double_leaf(w);
      const Tensor y = ops::linear(x, w, b), g = random({rows, 9});
      Tensor yd = at::mm(xd, wd.t());
      if (with_bias) yd = yd + b.detach().to(at::kDouble);
      expect_near(y, yd, cols + 2, "y", 1);
      y.backward(g);
      yd.backward(g.to(at::kDouble));
      expect_near(x.grad(), xd.grad(), 10, "dx", 1);
      expect_near(w.grad(), wd.grad(), rows + 2, "dw", 1);
      if (with_bias) expect_near(b.grad(), g.to(at::kDouble).sum(0), rows + 2, "db", 1);
    }
  EXPECT_THROW(ops::linear(random({2, 3}), random({4, 5})), Error);
  EXPECT_THROW(ops::linear(random({2, 3}), random({4, 3}), random({3})), Error);
}

TEST(Linear, OnlyAskedGradientsAreMade) {
  const Tensor x = random({4, 3}), w = leaf(random({5, 3}));
  ops::linear(x, w).sum().backward();
  EXPECT_TRUE(w.grad().defined());
  const Tensor x2 = leaf(x), w2 = random({5, 3});
  ops::linear(x2, w2).sum().backward();
  expect_near(x2.grad(), w2.sum(0).expand({4, 3}), 8, "dx");
}

// What is unpacked has the bits of what was packed, so every gradient keeps its own.
TEST(Linear, APackedInputChangesNoGradient) {
  for (const auto& [rows, cols] : kShapes) {
    const ops::Quantizer q{1.0 / 1024, nvfp4::BlockScale::four_over_six, at::zeros({}, at::kLong)};
    const Tensor input = ops::fake_quantize(random({rows, cols}, 3), q), g = random({rows, 9});
    const auto gradients = [&, cols = cols](const ops::Quantizer* packed) {
      at::manual_seed(4);
      const Tensor x = leaf(input), w = leaf(random({9, cols})), b = leaf(random({9}));
      ops::linear(x, w, b, packed).backward(g);
      return std::vector<Tensor>{x.grad(), w.grad(), b.grad()};
    };
    const auto plain = gradients(nullptr), packed = gradients(&q);
    for (std::size_t i = 0; i < plain.size(); ++i)
      reference::expect_same(packed[i], plain[i], "gradient " + std::to_string(i));
  }
}

TEST(Pack, GivesBackEitherType) {
  for (const auto& [rows, cols] : kShapes)
    for (const double global : {0x1p-10, 3.1e-4})
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        const ops::Quantizer q{global, nvfp4::BlockScale::mse, at::zeros({}, at::kLong)};
        const Tensor x = ops::fake_quantize(random({rows, cols}), q).to(type);
        const ops::Packed p = ops::pack(x, global);
        EXPECT_EQ(p.codes.sizes(), at::IntArrayRef({rows, (cols + 15) / 16 * 8}));
        EXPECT_EQ(p.scales.sizes(), at::IntArrayRef({rows, (cols + 15) / 16}));
        const Tensor y = ops::unpack(p, cols, global, type);
        ASSERT_EQ(y.scalar_type(), type);
        const auto bits = type == at::kFloat ? at::kInt : at::kShort;
        reference::expect_same(y.view(bits), x.view(bits), "unpacked");
      }
  const ops::Packed p = ops::pack(at::zeros({2, 40}), 1);
  EXPECT_THROW(ops::pack(at::zeros({2, 16}, at::kDouble), 1), Error);
  EXPECT_THROW(ops::pack(at::zeros({2, 16}), 0), Error);
  EXPECT_THROW(ops::unpack(p, 49, 1, at::kFloat), Error);
  EXPECT_THROW(ops::unpack({p.codes, p.scales.narrow(1, 0, 2)}, 40, 1, at::kFloat), Error);
}

// Every E4M3 value, what lies half-way between two, its neighbours, and what saturates.
TEST(FakeQuantizeCache, IsE4m3OfKeysAndValuesAndItsGradientIsTheIdentity) {
  std::vector<float> all{1e-30f, 1000, 463.9f, 464, 466};
  for (int code = 0; code < 0x7E; ++code) {
    const float a = nvfp4::e4m3_decode(static_cast<std::uint8_t>(code)),
                b = nvfp4::e4m3_decode(static_cast<std::uint8_t>(code + 1)), half = (a + b) / 2;
    for (const float x : {a, half, std::nextafter(half, a), std::nextafter(half, b)})
      all.insert(all.end(), {x, -x});
  }
  all.resize((all.size() + 15) / 16 * 16);
  constexpr std::int64_t kHeads = 3, kKv = 2, kDim = 4;
  const auto tokens = static_cast<std::int64_t>(all.size()) / (kKv * kDim);
  const Tensor x = at::from_blob(all.data(), {tokens, kKv, kDim}, at::kFloat);
  for (const auto& [key, value] : {std::pair{1.0, 1.0}, {0.0625, 4.0}, {0.013, 3.7}}) {
    const Tensor q = random({tokens, kHeads, kDim});
    Tensor qkv = at::cat({q, x * key, x * value}, 1).set_requires_grad(true);
    const Tensor y = ops::fake_quantize_cache(qkv, kHeads, kKv, key, value);
    EXPECT_TRUE(at::equal(y.narrow(1, 0, kHeads), q));
    for (const auto& [first, wide] : {std::pair{kHeads, key}, {kHeads + kKv, value}}) {
      const auto scale = static_cast<float>(wide);
      const Tensor from = qkv.detach().narrow(1, first, kKv).contiguous(),
                   to = y.detach().narrow(1, first, kKv).contiguous();
      for (std::int64_t i = 0; i < from.numel(); ++i)
        ASSERT_EQ(to.data_ptr<float>()[i],
                  nvfp4::e4m3_decode(nvfp4::e4m3_encode(from.data_ptr<float>()[i] / scale)) * scale)
            << from.data_ptr<float>()[i] << " / " << scale;
    }
    const Tensor g = random(y.sizes(), 5);
    y.backward(g);
    EXPECT_TRUE(at::equal(qkv.grad(), g));
    // By a power of two BF16 holds what the codes decode to.
    if (key != 0.013) {
      const Tensor half = qkv.detach().to(at::kBFloat16);
      EXPECT_TRUE(
          at::equal(ops::fake_quantize_cache(half, kHeads, kKv, key, value).to(at::kFloat),
                    ops::fake_quantize_cache(half.to(at::kFloat), kHeads, kKv, key, value)));
    }
  }
  const Tensor qkv = random({2, 7, 4});
  EXPECT_THROW(ops::fake_quantize_cache(qkv, 4, 2, 1, 1), Error);
  EXPECT_THROW(ops::fake_quantize_cache(qkv, 3, 2, 0, 1), Error);
  EXPECT_THROW(ops::fake_quantize_cache(qkv, 3, 2, 1, NAN), Error);
}

TEST(FakeQuantize, IsTheFormatsAndItsGradientIsTheIdentity) {
  for (const auto& [rows, cols] : kShapes) {
    const Tensor x = leaf(random({rows, cols}, 3));
    const float global = 1.0f / 1024;
    std::vector<float> expected(rows * cols);
    const std::int64_t clipped = nvfp4::fake_quantize(x.const_data_ptr<float>(), rows, cols, global,
                                                      nvfp4::BlockScale::max, expected.data());
    const Tensor counted = at::full({}, 5, at::kLong);
    const Tensor y = ops::fake_quantize(x, {global, nvfp4::BlockScale::max, counted});
    EXPECT_EQ(counted.item<std::int64_t>(), 5 + clipped);
    EXPECT_EQ(0, std::memcmp(y.const_data_ptr<float>(), expected.data(), expected.size() * 4));
    const Tensor g = random({rows, cols});
    y.backward(g);
    reference::expect_same(x.grad(), g, "straight through");
  }
  const Tensor x = random({2, 16}), counter = at::zeros({}, at::kLong);
  EXPECT_THROW(ops::fake_quantize(x, {0, nvfp4::BlockScale::max, counter}), Error);
  EXPECT_THROW(ops::fake_quantize(x, {1, nvfp4::BlockScale::max, at::zeros({})}), Error);
  EXPECT_THROW(ops::fake_quantize(x, {1, nvfp4::BlockScale::max, {}}), Error);
}

TEST(RmsNorm, RowsAndGradients) {
  for (const auto& [rows, cols] : kShapes) {
    const Tensor x = leaf(random({rows, cols}, 2)), w = leaf(random({cols}));
    const Tensor xd = double_leaf(x), wd = double_leaf(w), g = random({rows, cols});
    const Tensor y = ops::rms_norm(x, w, 1e-5), yd = reference::rms_norm(xd, wd, 1e-5);
    expect_near(y, yd, 8, "y");
    y.backward(g);
    yd.backward(g.to(at::kDouble));
    // dx subtracts two terms as large as grad * w / rms, which may be larger than dx itself.
    const double terms = (g * w).abs().max().item<double>() /
                         xd.square().mean(-1).sqrt().min().item<double>() /
                         std::max(1e-3, xd.grad().abs().max().item<double>());
    expect_near(x.grad(), xd.grad(), 16 * std::max(1.0, terms), "dx");
    expect_near(w.grad(), wd.grad(), 8 + rows, "dw");
  }
  // a head's norm: the last dimension of three
  const Tensor x = random({6, 3, 8}), w = random({8});
  expect_near(ops::rms_norm(x, w, 1e-6),
              reference::rms_norm(x.to(at::kDouble), w.to(at::kDouble), 1e-6), 8, "heads");
  EXPECT_THROW(ops::rms_norm(x, random({7}), 1e-6), Error);
}

TEST(RmsNorm, WithTheResidualSumBeforeIt) {
  for (const auto& [rows, cols] : kShapes)
    for (const bool sum_used : {true, false}) {
      const Tensor x = leaf(random({rows, cols}, 2)), delta = leaf(random({rows, cols}));
      const Tensor w = leaf(random({cols})), g = random({rows, cols}), gs = random({rows, cols});
      const Tensor x2 = leaf(x), delta2 = leaf(delta), w2 = leaf(w);
      const auto [sum, y] = ops::add_rms_norm(x, delta, w, 1e-5);
      const Tensor plain_sum = x2 + delta2, plain = ops::rms_norm(plain_sum, w2, 1e-5);
      reference::expect_same(sum, plain_sum, "sum");
      reference::expect_same(y, plain, "norm");
      ((y * g).sum() + (sum_used ? (sum * gs).sum() : Tensor(at::zeros({})))).backward();
      ((plain * g).sum() + (sum_used ? (plain_sum * gs).sum() : Tensor(at::zeros({})))).backward();
      reference::expect_same(x.grad(), x2.grad(), "dx");
      reference::expect_same(delta.grad(), delta2.grad(), "ddelta");
      reference::expect_same(w.grad(), w2.grad(), "dw");
    }
  const Tensor x = leaf(random({2, 16})), delta = random({2, 16}), w = random({16});
  ops::add_rms_norm(x, delta, w, 1e-5).first.sum().backward();  // the norm unused
  reference::expect_same(x.grad(), at::ones({2, 16}), "the sum alone");
  EXPECT_THROW(ops::add_rms_norm(x, random({3, 16}), w, 1e-5), Error);
}

// What an operator quantises is what fake_quantize makes of its plain result, to the bit, and
// gradients pass straight through.
TEST(Quantizer, IsFakeQuantizeAfterTheOperator) {
  for (const auto& [rows, cols] : kShapes)
    for (const auto rule : {nvfp4::BlockScale::max, nvfp4::BlockScale::four_over_six}) {
      const Tensor fused = at::zeros({}, at::kLong), apart = at::zeros({}, at::kLong);
      const ops::Quantizer q{1.0 / 2048, rule, fused}, after{q.global, rule, apart};
      const Tensor x = random({rows, cols}, 3), delta = random({rows, cols}), w = random({cols});
      const Tensor gates = random({rows, 2 * cols}, 3), g = random({rows, cols});
      const auto same = [&](const char* what, auto&& with, auto&& without, const Tensor& input) {
        const Tensor a = leaf(input), b = leaf(input);
        const Tensor y = with(a), plain = ops::fake_quantize(without(b), after);
        reference::expect_same(y, plain, what);
        y.backward(g);
        plain.backward(g);
        reference::expect_same(a.grad(), b.grad(), what);
        EXPECT_TRUE(at::equal(fused, apart)) << what;
      };
      same(
          "rms_norm", [&](const Tensor& t) { return ops::rms_norm(t, w, 1e-5, &q); },
          [&](const Tensor& t) { return ops::rms_norm(t, w, 1e-5); }, x);
      same(
          "add_rms_norm",
          [&](const Tensor& t) { return ops::add_rms_norm(t, delta, w, 1e-5, &q).second; },
          [&](const Tensor& t) { return ops::rms_norm(t + delta, w, 1e-5); }, x);
      same(
          "swiglu", [&](const Tensor& t) { return ops::swiglu(t, &q); },
          [&](const Tensor& t) { return ops::swiglu(t); }, gates);
      same(
          "relu2", [&](const Tensor& t) { return ops::relu2(t, &q); },
          [&](const Tensor& t) { return ops::relu2(t); }, x);
      if (rows * cols > 100) {
        EXPECT_GT(fused.item<std::int64_t>(), 0);
      }
    }
}

TEST(Rope, RotationAndGradient) {
  for (const std::int64_t dim : {2, 6, 8, 64, 100}) {
    const std::int64_t tokens = 37, heads = 5, rotated = 3;
    const Tensor x = leaf(random({tokens, heads, dim})), xd = double_leaf(x);
    const Tensor angle = random({50, dim / 2}, 10),
                 at_row = at::randint(0, 50, {tokens}, at::kLong);
    const Tensor cos = angle.cos(), sin = angle.sin(), g = random(x.sizes());
    const Tensor y = ops::rope(x, cos, sin, at_row, rotated);
    const Tensor yd =
        reference::rope(xd, cos.to(at::kDouble), sin.to(at::kDouble), at_row, rotated);
    expect_near(y, yd, 3, "y");
    reference::expect_same(y.narrow(1, rotated, 2), x.narrow(1, rotated, 2), "the rest is copied");
    y.backward(g);
    yd.backward(g.to(at::kDouble));
    expect_near(x.grad(), xd.grad(), 3, "dx");
  }
  const Tensor x = random({1, 2, 4}), table = random({3, 2});
  EXPECT_THROW(ops::rope(x, table, table, at::full({1}, 3, at::kLong), 2), Error);
  EXPECT_THROW(ops::rope(x, table, table, at::zeros({1}, at::kLong), 3), Error);
  EXPECT_THROW(ops::rope(x, random({3, 4}), random({3, 4}), at::zeros({1}, at::kLong), 2), Error);
}

TEST(Swiglu, RowsAndGradient) {
  for (const auto& [rows, cols] : kShapes) {
    const Tensor x = leaf(random({rows, 2 * cols}, 4)), xd = double_leaf(x);
    const Tensor g = random({rows, cols}), y = ops::swiglu(x), yd = reference::swiglu(xd);
    expect_near(y, yd, 10, "y");
    y.backward(g);
    yd.backward(g.to(at::kDouble));
    expect_near(x.grad(), xd.grad(), 12, "dx");
  }
  // gates beyond the range of exp
  const Tensor ends = at::tensor({-200.0f, 200.0f, 1.0f, 1.0f}).reshape({1, 4});
  expect_near(ops::swiglu(ends), at::tensor({0.0f, 200.0f}).reshape({1, 2}), 1, "ends");
  EXPECT_THROW(ops::swiglu(random({2, 3})), Error);
}

// Products of two FP32 values, rounded once; the gradient's factor 2 is exact.
TEST(Relu2, SquaresAndTheirGradient) {
  for (const auto& [rows, cols] : kShapes) {
    const Tensor x = leaf(random({rows, cols}, 4)), g = random({rows, cols});
    const Tensor y = ops::relu2(x), positive = x.detach().clamp_min(0);
    reference::expect_same(y, positive * positive, "y");
    y.backward(g);
    reference::expect_same(x.grad(), 2 * positive * g, "dx");
  }
}

TEST(Rows, ThreadsChangeNoBit) {
  const Tensor x = random({3000, 66}), w = random({66}), g = random({3000, 66});
  const auto run = [&](int threads) {
    at::set_num_threads(threads);
    const Tensor a = leaf(x), scale = leaf(w), gates = leaf(x), table = leaf(random({9, 66}));
    ops::rms_norm(a, scale, 1e-5).backward(g);
    ops::swiglu(gates).backward(g.narrow(1, 0, 33));
    const Tensor rows = at::arange(3000, at::kLong).remainder(9);
    ops::embedding(table, rows).backward(g);
    return std::vector<Tensor>{a.grad(), scale.grad(), gates.grad(), table.grad()};
  };
  const int threads = at::get_num_threads();
  const auto one = run(1), two = run(2);
  at::set_num_threads(threads);
  for (std::size_t i = 0; i < one.size(); ++i)
    reference::expect_same(one[i], two[i], "result " + std::to_string(i));
}

}  // namespace
}  // namespace qad::ops
