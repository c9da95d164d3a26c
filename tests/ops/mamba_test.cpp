// Mamba's operators against their formulas in double, token after token (reference.h), whose
// gradients are PyTorch's own and, for the scan, finite differences as well.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "ops/mamba.h"
#include "reference.h"

namespace qad::ops {
namespace {

using reference::double_leaf;
using reference::expect_near;
using reference::expect_same;
using reference::leaf;
using reference::random;
using Tensor = at::Tensor;
using Starts = std::vector<std::int32_t>;

Tensor ints(const Starts& values) {
  return at::tensor(values, at::kInt);
}

// One token, documents shorter than the taps, chunks of 64 that end with a document or within it.
const Starts kDocuments[] = {{0, 1}, {0, 5}, {0, 64}, {0, 1, 3, 8, 8, 9}, {0, 65, 129, 330}};

struct ConvInputs {
  Tensor x, weight, bias;
};
ConvInputs conv_inputs(std::int64_t tokens, std::int64_t cols, std::int64_t taps, bool with_bias) {
  return {random({tokens, cols}), random({cols, 1, taps}, 0.5),
          with_bias ? random({cols}) : Tensor()};
}

TEST(CausalConv, SumsAndGradients) {
  for (const Starts& starts : kDocuments)
    for (const auto& [cols, taps] : {std::pair(1, 1), {7, 4}, {33, 4}, {64, 3}})
      for (const bool with_bias : {false, true}) {
        const ConvInputs in = conv_inputs(starts.back(), cols, taps, with_bias);
        const Tensor x = leaf(in.x), w = leaf(in.weight), xd = double_leaf(x), wd = double_leaf(w);
        const Tensor b = with_bias ? leaf(in.bias) : Tensor();
        const Tensor bd = with_bias ? double_leaf(b) : Tensor();
        const Tensor y = causal_conv(x, w, b, ints(starts)), g = random(x.sizes());
        const Tensor yd = reference::causal_conv(xd, wd, bd, starts);
        expect_near(y, yd, taps + 8, "y", 1);
        y.backward(g);
        yd.backward(g.to(at::kDouble));
        expect_near(x.grad(), xd.grad(), 2 * taps + 10, "dx", 1);
        expect_near(w.grad(), wd.grad(), starts.back() + 10, "dw", 1);
        if (with_bias) expect_near(b.grad(), bd.grad(), starts.back() + 10, "db", 1);
      }
}

struct ScanInputs {
  Tensor xbc, dt;
  ScanParameters p;

  ScanInputs map(Tensor (*f)(const Tensor&)) const {
    return {f(xbc), f(dt), {f(p.dt_bias), f(p.a_log), f(p.d)}};
  }
  std::vector<std::pair<const char*, Tensor>> all() const {
    return {{"xbc", xbc}, {"dt", dt}, {"dt_bias", p.dt_bias}, {"a_log", p.a_log}, {"d", p.d}};
  }
};
struct Sizes {
  std::int64_t heads, groups, dim, state;
  ScanShape shape() const { return {dim, groups}; }
};
ScanInputs scan_inputs(std::int64_t tokens, const Sizes& s) {
  return {random({tokens, s.heads * s.dim + 2 * s.groups * s.state}, 0.7),
          random({tokens, s.heads}),
          {random({s.heads}) - 2, random({s.heads}), random({s.heads})}};
}
const Sizes kSizes[] = {{1, 1, 1, 1}, {4, 2, 8, 16}, {6, 1, 5, 7}, {2, 2, 16, 33}};

// A result is a sum over the tokens before it, whose sizes decay; 64 roundings of the largest are
// a bound that a wrong decay, group or boundary misses by far.
TEST(MambaScan, ChunksAreTheRecurrence) {
  for (const Starts& starts : kDocuments)
    for (const Sizes& s : kSizes) {
      const ScanInputs in = scan_inputs(starts.back(), s), a = in.map(leaf),
                       b = in.map(double_leaf);
      const Tensor y = mamba_scan(a.xbc, a.dt, a.p, ints(starts), 400, s.shape());
      const Tensor yd = reference::mamba_scan(b.xbc, b.dt, b.p, starts, s.shape());
      const std::string what =
          fmt::format("{} tokens, {} heads of {}", starts.back(), s.heads, s.dim);
      expect_near(y, yd, 64, what + ": y", 1);
      const Tensor g = random(y.sizes());
      y.backward(g);
      yd.backward(g.to(at::kDouble));
      for (std::size_t i = 0; i < a.all().size(); ++i)
        expect_near(a.all()[i].second.grad(), b.all()[i].second.grad(), 256,
                    what + ": d " + a.all()[i].first, 1);
    }
}

// (f(x + h) - f(x - h)) / 2h for every number that goes in, f in double: its own error is h^2
// f'''/6, some 1e-8, far below FP32's.
TEST(MambaScan, GradientsAreFiniteDifferences) {
  const Starts starts{0, 3, 70};
  const Sizes s{2, 1, 2, 3};
  ScanShape shape = s.shape();
  shape.least_step = 0.08, shape.most_step = 0.5;  // some steps are at each limit
  const ScanInputs in = scan_inputs(starts.back(), s), a = in.map(leaf);
  const Tensor g = random({starts.back(), s.heads * s.dim});
  mamba_scan(a.xbc, a.dt, a.p, ints(starts), 67, shape).backward(g);
  const ScanInputs d = in.map([](const Tensor& t) { return t.to(at::kDouble); });
  const at::NoGradGuard no_grad;
  const auto value = [&] {
    return (reference::mamba_scan(d.xbc, d.dt, d.p, starts, shape) * g).sum().item<double>();
  };
  constexpr double h = 1e-4;
  for (std::size_t i = 0; i < d.all().size(); ++i) {
    const auto [name, t] = d.all()[i];
    Tensor expected = at::zeros_like(t);
    double *x = t.data_ptr<double>(), *e = expected.data_ptr<double>();
    // Every 7th number of the long inputs: each has seen every head, token and role.
    const std::int64_t step = t.dim() > 1 ? 7 : 1;
    Tensor found = a.all()[i].second.grad().to(at::kDouble).contiguous();
    for (std::int64_t k = 0; k < t.numel(); ++k) {
      if (k % step != 0) {
        found.data_ptr<double>()[k] = 0;
        continue;
      }
      const double at = x[k];
      x[k] = at + h;
      const double above = value();
      x[k] = at - h;
      e[k] = (above - value()) / (2 * h);
      x[k] = at;
    }
    expect_near(found, expected, 100, name, 1);
  }
}

// Steps of 20 and decays of e^-100 a token, beside ones of 1e-3: sums of dt A reach thousands, and
// their differences must still be right. What is forgotten must not become NaN.
TEST(MambaScan, FastAndSlowDecaysMeet) {
  const Sizes s{2, 1, 4, 8};
  ScanInputs in = scan_inputs(128, s);
  in.p.a_log = at::tensor({std::log(50.0f), std::log(1e-3f)});
  in.p.dt_bias.zero_();
  in.dt.fill_(-7);
  in.dt.narrow(0, 10, 20).fill_(20);
  const ScanInputs a = in.map(leaf), b = in.map(double_leaf);
  const Tensor y = mamba_scan(a.xbc, a.dt, a.p, ints({0, 128}), 128, s.shape());
  const Tensor yd = reference::mamba_scan(b.xbc, b.dt, b.p, {0, 128}, s.shape());
  expect_near(y, yd, 64, "y", 1);
  const Tensor g = random(y.sizes());
  y.backward(g);
  yd.backward(g.to(at::kDouble));
  for (std::size_t i = 0; i < a.all().size(); ++i)
    expect_near(a.all()[i].second.grad(), b.all()[i].second.grad(), 256, a.all()[i].first, 1);
}

// Columns of a projection, as a mixer hands them over.
TEST(Mamba, InputsMayBeColumnsOfAWiderMatrix) {
  const Sizes s{4, 2, 8, 16};
  const std::int64_t tokens = 70, inner = s.heads * s.dim, cols = inner + 2 * s.groups * s.state;
  const Tensor all = random({tokens, inner + cols + s.heads});
  const auto parts = all.split_with_sizes({inner, cols, s.heads}, 1);
  const auto same = [&](auto&& f, const char* what) {
    std::vector<Tensor> grads;
    for (const bool copied : {false, true}) {
      std::vector<Tensor> in;
      const Tensor base = leaf(all);
      for (const Tensor& t : base.split_with_sizes({inner, cols, s.heads}, 1))
        in.push_back(copied ? t.contiguous() : t);
      const Tensor y = f(in);
      y.backward(at::ones_like(y));
      grads.push_back(y.detach());
      grads.push_back(base.grad());
    }
    expect_same(grads[0], grads[2], what);
    expect_same(grads[1], grads[3], what);
  };
  const ScanInputs p = scan_inputs(1, s);
  const Tensor w = random({cols, 1, 4}), scale = random({inner}), y = random({tokens, inner});
  const Tensor starts = ints({0, 20, 70});
  same([&](auto& in) { return causal_conv(in[1], w, {}, starts); }, "causal_conv");
  same([&](auto& in) { return mamba_scan(in[1], in[2], p.p, starts, 50, s.shape()); }, "scan");
  same([&](auto& in) { return gated_rms_norm(y, in[0], scale, s.groups, 1e-5); }, "norm");
}

TEST(Mamba, DocumentsAndThreadsChangeNoBit) {
  const Sizes s{4, 2, 8, 16};
  const Starts starts{0, 65, 200, 207};
  const ScanInputs in = scan_inputs(starts.back(), s);
  const ConvInputs conv = conv_inputs(starts.back(), 24, 4, true);
  const Tensor g = random({starts.back(), s.heads * s.dim});
  const int threads = at::get_num_threads();
  std::vector<std::vector<Tensor>> runs;
  for (const int n : {1, 2}) {
    at::set_num_threads(n);
    const ScanInputs a = in.map(leaf);
    const Tensor y = mamba_scan(a.xbc, a.dt, a.p, ints(starts), 135, s.shape());
    y.backward(g);
    runs.push_back({y.detach(), causal_conv(conv.x, conv.weight, conv.bias, ints(starts))});
    for (const auto& [name, t] : a.all()) runs.back().push_back(t.grad());
  }
  at::set_num_threads(threads);
  for (std::size_t i = 0; i < runs[0].size(); ++i)
    expect_same(runs[0][i], runs[1][i], "threads " + std::to_string(i));
  for (std::size_t i = 0; i + 1 < starts.size(); ++i) {
    const std::int64_t n = starts[i + 1] - starts[i];
    const auto rows = [&](const Tensor& t) { return t.narrow(0, starts[i], n); };
    const Starts alone{0, static_cast<std::int32_t>(n)};
    expect_same(rows(runs[0][0]),
                mamba_scan(rows(in.xbc), rows(in.dt), in.p, ints(alone), n, s.shape()), "scan");
    expect_same(rows(runs[0][1]), causal_conv(rows(conv.x), conv.weight, conv.bias, ints(alone)),
                "causal_conv");
  }
}

// Two documents in pieces, whose slots hold what others left; the bits are those of one piece.
TEST(Mamba, PiecesWithStatesAreTheWhole) {
  const Sizes s{4, 2, 8, 16};
  const std::int64_t n = 40, cols = s.heads * s.dim + 2 * s.groups * s.state;
  const ScanInputs in = scan_inputs(2 * n, s);
  const ConvInputs conv = conv_inputs(2 * n, cols, 4, true);
  // pieces[i]: the sizes of one document's pieces; the other's are the same in reverse.
  const auto run = [&](const std::vector<std::int64_t>& pieces) {
    Tensor conv_state = at::full({3, 3, cols}, 5.0f);
    Tensor state = at::full({3, s.heads, s.dim, s.state}, 5.0f);
    Tensor mixed = at::empty({2 * n, cols}), y = at::empty({2 * n, s.heads * s.dim});
    std::int64_t done[2] = {};
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const std::int64_t sizes[2] = {pieces[i], pieces[pieces.size() - 1 - i]};
      std::vector<std::int64_t> rows;
      for (std::int64_t k = 0; k < sizes[0]; ++k) rows.push_back(done[0] + k);
      for (std::int64_t k = 0; k < sizes[1]; ++k) rows.push_back(n + done[1] + k);
      const auto a = static_cast<std::int32_t>(sizes[0]), b = static_cast<std::int32_t>(sizes[1]);
      done[0] += a, done[1] += b;
      const Tensor at_rows = at::tensor(rows), cu = ints({0, a, a + b});
      const StateSlots slots{
          ints({static_cast<std::int32_t>(done[0]), static_cast<std::int32_t>(done[1])}),
          ints({2, 0})};
      const auto of = [&](const Tensor& t) { return t.index_select(0, at_rows); };
      mixed.index_copy_(
          0, at_rows,
          causal_conv_cached(of(conv.x), conv.weight, conv.bias, cu, slots, conv_state));
      y.index_copy_(0, at_rows,
                    mamba_scan_cached(of(in.xbc), of(in.dt), in.p, cu, slots, state, s.shape()));
    }
    EXPECT_TRUE(state[1].eq(5).all().item<bool>()) << "a slot of another document";
    return std::pair(mixed, y);
  };
  const auto [mixed, y] = run({n});
  const std::vector<std::int64_t> cut{1, 2, 30, 6, 1};
  const auto [mixed_cut, y_cut] = run(cut);
  expect_same(mixed, mixed_cut, "causal_conv");
  expect_same(y, y_cut, "scan");
  const Tensor starts = ints({0, 40, 80});
  expect_same(mixed, causal_conv(conv.x, conv.weight, conv.bias, starts), "causal_conv at once");
  expect_near(y, mamba_scan(in.xbc, in.dt, in.p, starts, n, s.shape()), 64, "chunks", 1);
}

TEST(GatedRmsNorm, GroupsAndGradients) {
  for (const auto& [rows, cols, groups] :
       {std::tuple(1, 1, 1), {3, 14, 2}, {40, 64, 4}, {5, 99, 3}, {130, 32, 1}}) {
    const Tensor y = leaf(random({rows, cols}, 2)), z = leaf(random({rows, cols}, 2));
    const Tensor w = leaf(random({cols})), g = random({rows, cols});
    const Tensor yd = double_leaf(y), zd = double_leaf(z), wd = double_leaf(w);
    const Tensor out = gated_rms_norm(y, z, w, groups, 1e-5);
    const Tensor expected = reference::gated_rms_norm(yd, zd, wd, groups, 1e-5);
    expect_near(out, expected, 20, "out");
    out.backward(g);
    expected.backward(g.to(at::kDouble));
    // Both subtract two terms as large as grad w / rms, which may be larger than what is left.
    const Tensor n = (yd * zd * zd.sigmoid()).reshape({rows, groups, -1});
    const double terms =
        (g * w).abs().max().item<double>() / (n.square().mean(-1).min().item<double>() + 1e-5);
    expect_near(y.grad(), yd.grad(), 32, "dy", terms);
    expect_near(z.grad(), zd.grad(), 32, "dz", terms);
    expect_near(w.grad(), wd.grad(), 20 + rows, "dw");
  }
}

TEST(GatedRmsNorm, QuantizesAsFakeQuantizeDoes) {
  const Tensor y = random({20, 64}, 3), z = random({20, 64}), w = random({64});
  const Tensor fused = at::zeros({}, at::kLong), apart = at::zeros({}, at::kLong);
  const Quantizer q{1.0 / 2048, nvfp4::BlockScale::four_over_six, fused};
  expect_same(gated_rms_norm(y, z, w, 2, 1e-5, &q),
              fake_quantize(gated_rms_norm(y, z, w, 2, 1e-5), {q.global, q.rule, apart}), "values");
  expect_same(fused, apart, "clipped");
}

TEST(Mamba, OddInputsAreErrors) {
  const Sizes s{4, 2, 8, 16};
  const ScanInputs in = scan_inputs(6, s);
  const Tensor starts = ints({0, 6});
  const auto scan = [&](const ScanInputs& i, const Tensor& cu, std::int64_t longest, ScanShape sh) {
    return mamba_scan(i.xbc, i.dt, i.p, cu, longest, sh);
  };
  EXPECT_NO_THROW(scan(in, starts, 6, s.shape()));
  EXPECT_THROW(scan(in, starts, 5, s.shape()), Error);
  EXPECT_THROW(scan(in, ints({0, 7}), 7, s.shape()), Error);
  EXPECT_THROW(scan(in, starts, 6, {8, 3}), Error);   // groups that do not divide 4 heads
  EXPECT_THROW(scan(in, starts, 6, {24, 2}), Error);  // no columns are left for B and C
  EXPECT_THROW(scan(in, starts, 6, {8, 2, 1, 0.5}), Error);
  ScanInputs short_bias = in;
  short_bias.p.dt_bias = random({3});
  EXPECT_THROW(scan(short_bias, starts, 6, s.shape()), Error);
  EXPECT_THROW(causal_conv(random({6, 4}), random({4, 3}), {}, starts), Error);
  EXPECT_THROW(causal_conv(random({6, 4}), random({5, 1, 3}), {}, starts), Error);
  EXPECT_THROW(causal_conv(random({6, 4}), random({4, 1, 3}), random({3}), starts), Error);
  EXPECT_THROW(gated_rms_norm(random({2, 6}), random({2, 6}), random({6}), 4, 1e-5), Error);
  EXPECT_THROW(gated_rms_norm(random({2, 6}), random({2, 5}), random({6}), 2, 1e-5), Error);
  const Tensor x = random({6, 4}), w = random({4, 1, 3}), state = at::zeros({2, 2, 4});
  const auto cached = [&](const Starts& lengths, const Starts& slots) {
    return causal_conv_cached(x, w, {}, ints({0, 2, 6}), {ints(lengths), ints(slots)}, state);
  };
  EXPECT_NO_THROW(cached({2, 9}, {1, 0}));
  EXPECT_THROW(cached({1, 9}, {1, 0}), Error);  // fewer than are here
  EXPECT_THROW(cached({2, 9}, {1, 1}), Error);
  EXPECT_THROW(cached({2, 9}, {1, 2}), Error);
  EXPECT_THROW(causal_conv_cached(leaf(x), w, {}, ints({0, 6}), {ints({6}), ints({0})}, state),
               Error);
}

}  // namespace
}  // namespace qad::ops
