// The optimiser's step: against torch.optim.AdamW and its formula in double; moments in fewer bits
// against the definition of their rounding and against FP32 moments over many steps.
#include "ops/adamw.h"

#include <ATen/Parallel.h>

#include "core/error.h"
#include "core/json.h"
#include "ops/adamw_step.h"
#include "reference.h"

namespace qad::ops {
namespace {

using reference::expect_near;
using reference::expect_same;
using reference::random;
using Tensor = at::Tensor;

constexpr std::int64_t kSizes[] = {1, 2, 7, 255, 256, 257, 1000, 70001};

Tensor scalar(double x) {
  return at::scalar_tensor(x, at::kFloat);
}

TEST(AdamW, EqualsTorch) {
  for (const Json& c : read_json(fs::path(QAD_SOURCE_DIR) / "tests/golden/adamw.json")) {
    const auto tensor = [](const Json& x) { return at::tensor(x.get<std::vector<float>>()); };
    const Tensor master = tensor(c["start"]), end = tensor(c["end"]);
    const Tensor m = at::zeros_like(master), v = at::zeros_like(master);
    AdamW a{c["learning_rate"], c["beta1"], c["beta2"], c["epsilon"], c["weight_decay"], 0};
    for (const Json& g : c["gradients"]) {
      ++a.step;
      adamw_(a, master, tensor(g) * 2, m, v, scalar(0.5));  // exact
    }
    // Five updates of at most some 0.03 each, a few roundings of 2^-24 relative in every one, on
    // values below 4: ulps of 2^-22.
    EXPECT_LE((master - end).abs().max().item<float>(), 5 * 0x1p-22);
  }
}

TEST(AdamW, IsItsFormula) {
  for (const std::int64_t n : kSizes) {
    const AdamW a{1e-2, 0.9, 0.95, 1e-8, 0.1, 3};
    const Tensor master = random({n}), g = random({n}), m = random({n}, 0.1),
                 v = random({n}, 0.1).square();
    const auto d = [](const Tensor& t) { return t.to(at::kDouble); };
    const Tensor gd = d(g) * 0.25, md = 0.9 * d(m) + 0.1 * gd, vd = 0.95 * d(v) + 0.05 * gd * gd;
    const Tensor wd = d(master) * (1 - 1e-3) - 1e-2 / (1 - std::pow(0.9, 3)) * md /
                                                   ((vd / (1 - std::pow(0.95, 3))).sqrt() + 1e-8);
    const Tensor amax = adamw_(a, master, g, m, v, scalar(0.25));
    expect_near(m, md, 4, "m");
    expect_near(v, vd, 6, "v");
    expect_near(master, wd, 16, "master");
    expect_same(amax, master.to(at::kBFloat16).to(at::kFloat).abs().max(), "amax");
  }
}

TEST(AdamW, AmaxSeesWhatIsNotFinite) {
  const AdamW a{1e-3, 0.9, 0.95, 1e-8, 0, 1};
  const auto amax = [&](float x) {
    const Tensor master = random({300}), zero = at::zeros({300});
    master[299] = x;
    return adamw_(a, master, zero, at::zeros({300}), at::zeros({300})).item<float>();
  };
  EXPECT_TRUE(std::isnan(amax(NAN)));
  EXPECT_EQ(amax(-INFINITY), INFINITY);
  EXPECT_EQ(amax(3.4e38f), INFINITY);  // bf16 of it is
  EXPECT_EQ(amax(-1025.5f), 1024);
  const Tensor none = at::empty({0});
  EXPECT_EQ(adamw_(a, none, none, none, none).item<float>(), 0);
}

// Every kind of moments with the same calls: what a step returns, and its state.
struct State {
  Tensor master, m, v;
  Moment8 m8, v8;
  State(const Tensor& start, int kind) : master(start.clone()) {
    if (kind == 2)
      m8 = zero_moment8(master), v8 = zero_moment8(master);
    else
      m = at::zeros_like(master, kind == 1 ? at::kBFloat16 : at::kFloat), v = at::zeros_like(m);
  }
  Tensor step(const AdamW& a, const Tensor& g, const Tensor& factor = {}) {
    return m8.codes.defined() ? adamw_(a, master, g, m8, v8, factor)
                              : adamw_(a, master, g, m, v, factor);
  }
  std::vector<Tensor> all() const {
    if (!m8.codes.defined()) return {master, m, v};
    return {master, m8.codes, m8.scales, v8.codes, v8.scales};
  }
  std::vector<Tensor> copy() const {
    std::vector<Tensor> copies;
    for (const Tensor& t : all()) copies.push_back(t.clone());
    return copies;
  }
};

TEST(AdamW, NanFactorChangesNothing) {
  for (const int kind : {0, 1, 2}) {
    State s(random({1000}), kind);
    const AdamW a{1e-3, 0.9, 0.95, 1e-8, 0.1, 1, 5};
    s.step(a, random({1000}));
    const auto before = s.copy();
    const Tensor amax = s.step(a, at::full({1000}, NAN), scalar(NAN));
    for (std::size_t i = 0; i < before.size(); ++i) expect_same(s.all()[i], before[i], "state");
    expect_same(amax, s.master.to(at::kBFloat16).to(at::kFloat).abs().max(), "amax");
  }
}

TEST(AdamW, ThreadsChangeNoBitAndSeedsDo) {
  const Tensor start = random({100000}), g = random({100000});
  const auto run = [&](int threads, int kind, std::uint64_t seed) {
    at::set_num_threads(threads);
    State s(start, kind);
    for (int step = 1; step <= 3; ++step)
      s.step({1e-3, 0.9, 0.95, 1e-8, 0.1, step, seed}, g * step);
    return s.all();
  };
  const int threads = at::get_num_threads();
  for (const int kind : {0, 1, 2}) {
    const auto one = run(1, kind, 7), two = run(2, kind, 7), other = run(1, kind, 8);
    for (std::size_t i = 0; i < one.size(); ++i) expect_same(one[i], two[i], "threads");
    EXPECT_EQ(at::equal(one[1], other[1]), kind == 0);
  }
  at::set_num_threads(threads);
}

TEST(Moments, Bf16RoundsToNeighboursWithTheRightExpectation) {
  for (const float x : {1.0f, -1.00390625f, 3.14159f, -1e-30f, 1e-40f, 65535.0f}) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
    const float low = std::bit_cast<float>(bits & 0xFFFF0000u);
    const float high = std::bit_cast<float>((bits + 0xFFFF) & 0xFFFF0000u);
    double sum = 0;
    for (std::uint32_t r = 0; r < 65536; ++r) {
      const float y = round_moment_to_bf16(x, r);
      ASSERT_TRUE(y == low || y == high);
      sum += y;
    }
    EXPECT_EQ(sum / 65536, x);  // sums of 16-bit significands: exact in double
  }
  EXPECT_EQ(round_moment_to_bf16(INFINITY, 65535), INFINITY);
  EXPECT_TRUE(std::isnan(round_moment_to_bf16(NAN, 65535)));
}

TEST(Moments, EightBitCodesAreTheirValues) {
  for (int code = 0; code < 256; ++code) {
    const auto c = static_cast<std::uint8_t>(code);
    // The small floats by their definition: m has a sign, 4 bits of exponent and 3 of mantissa.
    const auto small = [](int magnitude, int lowest) {
      const int exponent = std::max(1, magnitude >> 3);
      return std::ldexp((magnitude & 7) + (magnitude < 8 ? 0 : 8), exponent + lowest - 4);
    };
    const double m = (code & 128 ? -1 : 1) * small(code & 127, -14), v = small(code, -30);
    EXPECT_EQ(decode_m(c, 8), 8 * m) << code;
    EXPECT_EQ(decode_v(c, 0.5f), 0.5 * v) << code;
    for (const std::uint32_t random : {0u, 12345u, 65535u}) {  // a code's own value stays
      EXPECT_EQ(encode_m(8 * m, 0.125f, random), code);
      EXPECT_EQ(encode_v(0.5 * v, 2, random), code);
    }
  }
}

TEST(Moments, EightBitCodesHaveTheRightExpectation) {
  for (const double x : {1.87, 1.01, 0.3, 0.0123, 7e-5, 3e-5, 1e-6}) {
    double m = 0, v = 0;
    for (std::uint32_t r = 0; r < 65536; ++r) {
      m += decode_m(encode_m(static_cast<float>(-x), 1, r), 1);
      v += decode_v(encode_v(static_cast<float>(x), 1, r), 1);
    }
    // Draws are 65,536 steps of a gap, and a gap is at most an eighth of the value, or for m
    // 2^-17; x itself and x + 2^-14 are rounded to FP32.
    EXPECT_NEAR(m / 65536, -x, std::max(x / 8, 0x1p-17) * 0x1p-16 + 0x1p-38 + x * 0x1p-23);
    EXPECT_NEAR(v / 65536, x, x / 8 * 0x1p-16 + x * 0x1p-23);
  }
  for (std::uint32_t r = 0; r < 65536; r += 5)
    EXPECT_EQ(encode_v(1e-20f, 1, r), 1);  // never a zero that was none
}

TEST(Moments, ScalesArePowersOfTwoThatRoundingNeverExceeds) {
  const auto scale = [](float x) { return moment_scale(std::bit_cast<std::uint32_t>(x)); };
  EXPECT_EQ(scale(1), 1);
  EXPECT_EQ(scale(1.875f), 1);
  EXPECT_EQ(scale(1.8751f), 2);
  EXPECT_EQ(scale(0), 0x1p-100f);
  EXPECT_EQ(scale(3e38f), 0x1p126f);
  EXPECT_TRUE(std::isnan(scale(INFINITY)) && std::isnan(scale(NAN)));
  for (float x = 1e-29f; x < 1e37f; x *= 1.37f) {
    const float s = scale(x), inverse = inverse_scale(s);
    EXPECT_EQ(s * inverse, 1);
    const float up = decode_v(encode_v(x, inverse, 65535), s);
    EXPECT_TRUE(x <= up && up <= x * 1.125f) << x;
    EXPECT_TRUE(x * (7 / 8.0f) <= decode_m(encode_m(x, inverse, 0), s)) << x;
  }
}

// A noisy quadratic: the gradient is h (w - target) + noise. Runs that differ in their moments
// alone see the same noise.
//
// Bound. A step moves an element by rate * u, u = m_hat / sqrt(v_hat), |u| about 1 at most. A
// rounding to a grid whose gaps are at most d wide, relative to the value, has expectation 0 and a
// standard deviation of at most e = d / 2; d is 2^-7 for BF16 and 2^-3 for 8 bits. What one step
// does to m lasts for 1 / (1 - beta1) steps and moves u in proportion; what it does to v lasts for
// 1 / (1 - beta2) and moves u by half. Roundings are independent, so after k steps the root mean
// square of the distance is at most
//   rate * e * sqrt(k) * (1 / (1 - beta1) + 0.5 / (1 - beta2)),
// and the pull of the quadratic only shortens it.
TEST(Moments, FewerBitsTrackFp32OnANoisyQuadratic) {
  constexpr std::int64_t n = 4096;
  constexpr int kSteps = 50;
  constexpr double kRate = 1e-2, kBeta1 = 0.9, kBeta2 = 0.95;
  const Tensor start = random({n}), target = random({n});
  const Tensor h = at::rand({n}).mul(14).sub(10).exp2();  // curvatures over 14 binades
  for (const int kind : {1, 2}) {
    State plain(start, 0), s(start, kind);
    at::manual_seed(11);
    for (int step = 1; step <= kSteps; ++step) {
      const Tensor noise = random({n}, 0.5) * h;
      const AdamW a{kRate, kBeta1, kBeta2, 1e-8, 0, step, 3};
      plain.step(a, h * (plain.master - target) + noise);
      s.step(a, h * (s.master - target) + noise);
    }
    const double e = (kind == 1 ? 0x1p-7 : 0x1p-3) / 2;
    const double bound = kRate * e * std::sqrt(kSteps) * (1 / (1 - kBeta1) + 0.5 / (1 - kBeta2));
    const Tensor distance = (s.master - plain.master).to(at::kDouble);
    const double rms = distance.square().mean().sqrt().item<double>();
    EXPECT_LE(rms, bound) << kind;
    EXPECT_GT(rms, 0) << kind;
    // No bias: the mean of n independent distances, within five of its standard deviations.
    EXPECT_LE(std::abs(distance.mean().item<double>()), 5 * rms / std::sqrt(n)) << kind;
    // And the descent is the same: both moved most of the way a run of that length can.
    EXPECT_GT((plain.master - start).abs().mean().item<double>(), 10 * rms) << kind;
  }
}

// A second moment that decays by less than half a gap a step must still decay.
TEST(Moments, SlowDecayIsNotLost) {
  constexpr std::int64_t n = 4096;
  constexpr int kSteps = 100;
  for (const int kind : {1, 2}) {
    State s(random({n}), kind);
    const Tensor first = at::rand({n}).add(0.5);
    s.step({0, 0.9, 0.999, 1e-8, 0, 1, 3}, first);
    for (int step = 2; step <= kSteps + 1; ++step)
      s.step({0, 0.9, 0.999, 1e-8, 0, step, 3}, at::zeros({n}));
    Tensor v = s.v.defined() ? s.v.to(at::kDouble) : at::empty({n}, at::kDouble);
    if (kind == 2)
      for (std::int64_t i = 0; i < n; ++i)
        v[i] = decode_v(s.v8.codes[i].item<std::uint8_t>(),
                        s.v8.scales[i / kMomentBlock].item<float>());
    const Tensor expected = first.to(at::kDouble).square() * 0.001 * std::pow(0.999, kSteps);
    // Each of 101 roundings has a standard deviation of at most half a gap of an eighth; the mean
    // is over n elements.
    const double deviation = 0.0625 * std::sqrt(kSteps + 1.0) / std::sqrt(n);
    EXPECT_NEAR((v.sum() / expected.sum()).item<double>(), 1, 5 * deviation) << kind;
  }
}

TEST(GradientNorm, IsTheRootOfTheSumOverAll) {
  std::vector<Tensor> grads;
  double sum = 0;
  for (const std::int64_t n : kSizes) {
    grads.push_back(random({n}));
    sum += grads.back().to(at::kDouble).square().sum().item<double>();
  }
  grads.push_back(random({30, 20}).t());
  sum += grads.back().to(at::kDouble).square().sum().item<double>();
  EXPECT_NEAR(gradient_norm(grads).item<double>() / std::sqrt(sum), 1, 1e-12);
  EXPECT_EQ(gradient_norm({}).item<double>(), 0);
  EXPECT_EQ(gradient_norm({at::empty({0})}).item<double>(), 0);
  EXPECT_EQ(gradient_norm({at::full({100000}, 0.5f)}).item<double>(), std::sqrt(25000.0));
  EXPECT_NEAR(gradient_norm({at::full({16}, 1e30f)}).item<double>() / 4e30, 1, 1e-6);
  grads[2][3] = NAN;
  EXPECT_TRUE(std::isnan(gradient_norm(grads).item<double>()));
  EXPECT_THROW(gradient_norm({at::zeros({3}, at::kDouble)}), Error);
}

TEST(AdamW, RefusesWhatDoesNotFit) {
  const AdamW a{1e-3, 0.9, 0.95, 1e-8, 0, 1};
  const Tensor w = random({4, 6}), g = random({4, 6}), m = at::zeros({4, 6}), v = m.clone();
  EXPECT_THROW(adamw_(a, w, random({24}), m, v), Error);
  EXPECT_THROW(adamw_(a, w, g.to(at::kBFloat16), m, v), Error);
  EXPECT_THROW(adamw_(a, w.t(), g.t(), m.t(), v.t()), Error);
  EXPECT_THROW(adamw_(a, w, g, m, v.to(at::kBFloat16)), Error);
  EXPECT_THROW(adamw_(a, w, g, m, v, at::ones({2})), Error);
  EXPECT_THROW(adamw_({1e-3, 0.9, 0.95, 1e-8, 0, 0}, w, g, m, v), Error);
  EXPECT_THROW(adamw_(a, w, g, zero_moment8(random({300})), zero_moment8(w)), Error);
}

}  // namespace
}  // namespace qad::ops
