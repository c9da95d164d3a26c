// The distillation head against double formulas on whole logits: every loss, every temperature,
// masks, chunks; gradients against autograd and against differences.
#include "core/error.h"
#include "reference.h"

namespace qad::ops {
namespace {

using reference::double_leaf;
using reference::expect_near;
using reference::leaf;
using reference::random;
using Tensor = at::Tensor;

struct Loss {
  const char* name;
  LossWeights weights;
};
const Loss kLosses[] = {
    {"forward KL", {}},
    {"forward KL, warm", {.temperature = 2.5}},
    {"reverse KL", {.forward_kl = 0, .reverse_kl = 1}},
    {"reverse KL, cool", {.forward_kl = 0, .reverse_kl = 1, .temperature = 0.7}},
    {"Jensen-Shannon", {.forward_kl = 0, .jensen_shannon = 1}},
    {"Jensen-Shannon, warm", {.forward_kl = 0, .jensen_shannon = 1, .temperature = 3}},
    {"squared error", {.forward_kl = 0, .mse = 1}},
    {"cross-entropy", {.forward_kl = 0, .cross_entropy = 1}},
    {"KL and cross-entropy", {.forward_kl = 0.7, .cross_entropy = 0.3}},
    {"everything", {0.5, 0.4, 0.3, 0.2, 0.1, 1.5}},
};

struct Shape {
  std::int64_t tokens, hidden, teacher_hidden, vocabulary;
};
const Shape kShapes[] = {{1, 3, 3, 2}, {7, 16, 24, 33}, {40, 64, 64, 512}, {4, 8, 8, 2500}};

HeadInputs make(const Shape& s, bool teacher, bool masked) {
  HeadInputs in;
  in.student_hidden = leaf(random({s.tokens, s.hidden}));
  in.student_weight = leaf(random({s.vocabulary, s.hidden}, 2 / std::sqrt(s.hidden)));
  if (teacher) {
    in.teacher_hidden = random({s.tokens, s.teacher_hidden});
    in.teacher_weight = random({s.vocabulary, s.teacher_hidden}, 2 / std::sqrt(s.teacher_hidden));
  }
  in.labels = at::randint(0, s.vocabulary, {s.tokens}, at::kLong);
  in.weights = at::rand({s.tokens}).add(0.1).div(7.5);  // as of a mean
  if (masked)
    for (std::int64_t t = 0; t < s.tokens; t += 2) {
      in.weights[t] = 0;
      in.labels[t] = -100;
    }
  return in;
}

HeadInputs doubles(const HeadInputs& in) {
  const auto d = [](const Tensor& t) { return t.defined() ? t.to(at::kDouble) : t; };
  return {double_leaf(in.student_hidden),
          double_leaf(in.student_weight),
          d(in.teacher_hidden),
          d(in.teacher_weight),
          in.labels,
          d(in.weights)};
}

// Logits of size 2 to 8 carry 16 to 64 roundings from their products into the exponent, and
// the divergences are differences of them: the error is that of numbers of size 1 at least. The
// gradient of reverse KL multiplies them by log-ratios of size up to 16 again.
constexpr double kRoundings = 200, kGradientRoundings = 1000;

void compare(const HeadOutputs& a, const HeadOutputs& b, bool teacher, const std::string& what) {
  expect_near(a.loss, b.loss, kRoundings, what + " loss", 1);
  expect_near(a.ce, b.ce, kRoundings, what + " ce", 1);
  EXPECT_EQ(a.kl.defined(), teacher) << what;
  if (!teacher) return;
  expect_near(a.kl, b.kl, kRoundings, what + " kl", 1);
  expect_near(a.teacher_ce, b.teacher_ce, kRoundings, what + " teacher's ce", 1);
  reference::expect_same(a.agree, b.agree.to(at::kFloat), what + " agree");
}

TEST(HeadLoss, EveryLossAndItsGradients) {
  for (const Loss& loss : kLosses)
    for (const Shape& shape : kShapes)
      for (const bool masked : {false, true}) {
        const std::string what = fmt::format("{}, {} tokens, vocabulary {}, masked {}", loss.name,
                                             shape.tokens, shape.vocabulary, masked);
        const HeadInputs in = make(shape, true, masked), exact = doubles(in);
        const HeadOutputs a = ops::head_loss(in, loss.weights, 3);
        const HeadOutputs b = reference::head_loss(exact, loss.weights);
        compare(a, b, true, what);
        a.loss.backward();
        b.loss.backward();
        expect_near(in.student_hidden.grad(), exact.student_hidden.grad(), kGradientRoundings,
                    what + " dh");
        expect_near(in.student_weight.grad(), exact.student_weight.grad(), kGradientRoundings,
                    what + " dw");
        at::NoGradGuard no_grad;
        compare(ops::head_loss(in, loss.weights), b, true, what + " without gradient");
      }
}

TEST(HeadLoss, CrossEntropyNeedsNoTeacher) {
  for (const Shape& shape : kShapes) {
    const LossWeights qat{.forward_kl = 0, .cross_entropy = 1};
    const HeadInputs in = make(shape, false, true), exact = doubles(in);
    const HeadOutputs a = ops::head_loss(in, qat, 4), b = reference::head_loss(exact, qat);
    compare(a, b, false, "no teacher");
    (a.loss * 3).backward();
    (b.loss * 3).backward();
    expect_near(in.student_hidden.grad(), exact.student_hidden.grad(), kRoundings, "dh");
    expect_near(in.student_weight.grad(), exact.student_weight.grad(), kRoundings, "dw");
  }
}

TEST(HeadLoss, GradientIsTheSlopeOfTheLoss) {
  for (const Loss& loss : kLosses) {
    const HeadInputs in = make({6, 8, 8, 40}, true, false);
    const Tensor dh = random({6, 8}).to(at::kDouble), dw = random({40, 8}).to(at::kDouble);
    const auto value = [&](double step) {
      HeadInputs moved = doubles(in);
      moved.student_hidden = (moved.student_hidden + dh * step).detach();
      moved.student_weight = (moved.student_weight + dw * step).detach();
      return reference::head_loss(moved, loss.weights).loss.item<double>();
    };
    ops::head_loss(in, loss.weights).loss.backward();
    const double slope = (in.student_hidden.grad().to(at::kDouble) * dh).sum().item<double>() +
                         (in.student_weight.grad().to(at::kDouble) * dw).sum().item<double>();
    // differences of 1e-5 leave 1e-8 of curvature; FP32 leaves some 1e-6 of terms of size 10
    const double expected = (value(1e-5) - value(-1e-5)) / 2e-5;
    EXPECT_NEAR(slope, expected, 1e-4 * std::max(1.0, std::abs(expected))) << loss.name;
  }
}

TEST(HeadLoss, ChunksAndThreadsAgree) {
  const HeadInputs in = make({70, 32, 32, 300}, true, true);
  const auto run = [&](std::int64_t chunk) {
    in.student_hidden.mutable_grad() = Tensor();
    in.student_weight.mutable_grad() = Tensor();
    const HeadOutputs out = ops::head_loss(in, {}, chunk);
    out.loss.backward();
    return std::vector<Tensor>{
        out.loss.detach(),       out.kl, out.ce, out.teacher_ce, in.student_hidden.grad(),
        in.student_weight.grad()};
  };
  const auto whole = run(0);
  for (const std::int64_t chunk : {1, 2, 16, 35, 1000}) {
    const auto parts = run(chunk);
    for (std::size_t i = 0; i < parts.size(); ++i)
      expect_near(parts[i], whole[i], 60, fmt::format("chunk {}, result {}", chunk, i));
  }
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = run(0);
  at::set_num_threads(threads);
  for (std::size_t i = 0; i < one.size(); ++i)
    expect_near(one[i], whole[i], 60, fmt::format("threads, result {}", i));
}

TEST(HeadLoss, TeacherThatIsTheStudent) {
  HeadInputs in = make({12, 16, 16, 100}, true, false);
  in.teacher_hidden = in.student_hidden.detach();  // the same storage
  in.teacher_weight = in.student_weight.detach();
  in.weights = at::full({12}, 1.0f / 12);
  const HeadOutputs out = ops::head_loss(in, {0.4, 0.2, 0.2, 0.2, 0, 1});
  out.loss.backward();
  EXPECT_EQ(out.loss.item<float>(), 0);
  reference::expect_same(out.kl, at::zeros({12}), "kl");
  reference::expect_same(out.agree, at::ones({12}), "agree");
  // Jensen-Shannon's u = log 2 - log(1 + e^-d) is rounded at d = 0
  EXPECT_LE(in.student_weight.grad().abs().max().item<float>(), 1e-6);
}

TEST(HeadLoss, ExtremeLogitsStayFinite) {
  HeadInputs in = make({5, 4, 4, 50}, true, false);
  in.teacher_weight = in.teacher_weight * 1000;
  for (const Loss& loss : kLosses) {
    in.student_weight = leaf(in.student_weight.detach().sign() * 500);
    const HeadOutputs out = ops::head_loss(in, loss.weights);
    out.loss.backward();
    EXPECT_TRUE(std::isfinite(out.loss.item<float>())) << loss.name;
    EXPECT_TRUE(in.student_weight.grad().isfinite().all().item<bool>()) << loss.name;
  }
}

TEST(HeadLoss, NothingKept) {
  HeadInputs in = make({4, 8, 8, 10}, true, false);
  in.weights = at::zeros({4});
  const HeadOutputs out = ops::head_loss(in, {});
  out.loss.backward();
  EXPECT_EQ(out.loss.item<float>(), 0);
  reference::expect_same(in.student_weight.grad(), at::zeros({10, 8}), "dw");
}

TEST(HeadLoss, RefusesWrongInputs) {
  const HeadInputs good = make({4, 8, 6, 10}, true, false);
  const auto refused = [&](auto&& spoil, LossWeights w = {}) {
    HeadInputs in = good;
    spoil(in);
    EXPECT_THROW(ops::head_loss(in, w), Error);
  };
  refused([](HeadInputs& in) { in.teacher_hidden = in.teacher_weight = Tensor(); });
  refused([](HeadInputs& in) { in.labels = at::full({4}, 10, at::kLong); });
  refused([](HeadInputs& in) { in.labels = at::full({4}, -100, at::kLong); });
  refused([](HeadInputs& in) { in.teacher_weight = random({11, 6}); });
  refused([](HeadInputs& in) { in.weights = at::ones({3}); });
  refused([](HeadInputs& in) { in.student_hidden = random({4, 9}); });
  refused([](HeadInputs&) {}, {.temperature = 0});
  EXPECT_THROW(ops::head_loss(good, {}, 0, true), Error);  // BF16 logits, on a CPU
}

// A retained graph gives the same gradients again; a spent one says so.
TEST(HeadLoss, BackwardTwice) {
  HeadInputs in = make({4, 8, 6, 10}, true, false);
  in.student_hidden = leaf(in.student_hidden.detach());
  const HeadOutputs out = ops::head_loss(in, {});
  out.loss.backward(at::full({}, 2.0f), true);
  const at::Tensor once = in.student_hidden.grad().clone();
  out.loss.backward(at::full({}, 2.0f));
  EXPECT_TRUE(at::equal(in.student_hidden.grad(), once.add(once)));
  EXPECT_THROW(out.loss.backward(), Error);
}

}  // namespace
}  // namespace qad::ops
