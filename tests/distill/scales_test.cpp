// Block scales as data while training: those that were chosen before stay, learned ones follow
// LSQ's gradient; both resume and come back with a candidate.
#include <gmock/gmock.h>
#include <unistd.h>

#include <fstream>

#include "core/error.h"
#include "distill/learned_scales.h"
#include "distill/tiny_model.h"
#include "nvfp4/plain.h"
#include "quantize/by_hessians.h"

namespace qad::distill {
namespace {

using ::testing::HasSubstr;

// By autograd, from LSQ's own formula: rounding and the clamp's inside pass gradients through.
TEST(LearnedScales, TheGradientIsAutogradsOfTheStraightThroughRounding) {
  at::manual_seed(4);
  const float global = 0x1p-9f;
  const at::Tensor w = 0.05 * at::randn({6, 48}), gradient = at::randn({6, 48});
  const at::Tensor scales = at::randint(0x20, 0x60, {6, 3}, at::kByte);  // many saturate
  const at::Tensor d = step_sizes(scales, global);
  for (int i = 0; i < 18; ++i)
    EXPECT_EQ(d.view(-1)[i].item<float>(),
              static_cast<float>(plain::e4m3(scales.view(-1)[i].item<int>())) * global);

  at::Tensor leaf = d.to(at::kDouble).requires_grad_();
  const at::Tensor rounded = w.to(at::kBFloat16).to(at::kDouble);
  const at::Tensor r = (rounded.view({6, 3, 16}) / leaf.unsqueeze(2)).clamp(-6, 6);
  at::Tensor code = at::empty_like(r.detach());
  for (std::int64_t i = 0; i < code.numel(); ++i) {
    const double x = r.detach().view(-1)[i].item<double>();
    code.view(-1)[i] = (x < 0 ? -1 : 1) * plain::e2m1(plain::nearest(std::abs(x), 7, plain::e2m1));
  }
  const at::Tensor y = (r + (code - r).detach()) * leaf.unsqueeze(2);
  (y * gradient.view({6, 3, 16}).to(at::kDouble)).sum().backward();
  EXPECT_GT(r.detach().abs().eq(6).sum().item<std::int64_t>(), 20);
  const at::Tensor expected = leaf.grad() / std::sqrt(16.0 * 6.0);
  for (const bool half : {false, true})
    EXPECT_TRUE(at::allclose(
        step_gradient(gradient, half ? w.to(at::kBFloat16) : w, scales, global).to(at::kDouble),
        expected, 1e-4, 1e-5));
}

TEST(LearnedScales, ShipTheNearestScale) {
  const at::Tensor scales = at::arange(1, 0x7F, at::kByte).view({2, 63}),
                   back = at::empty_like(scales);
  encode_step_sizes(step_sizes(scales, 3e-4f), 3e-4f, back);
  EXPECT_TRUE(at::equal(scales, back));
  const at::Tensor far = at::tensor({-1.0f, 0.0f, 1e9f}), codes = at::empty({3}, at::kByte);
  encode_step_sizes(far, 1, codes);
  EXPECT_TRUE(at::equal(codes, at::tensor({0x01, 0x01, 0x7E}, at::kByte)));
}

// What a GPU does, on a CPU: 16 terms in another order.
TEST(LearnedScales, OperatorsGiveTheSame) {
  at::manual_seed(5);
  for (const float global : {0x1p-9f, 3e-4f}) {
    const at::Tensor w = 0.05 * at::randn({40, 64}), gradient = at::randn({40, 64});
    const at::Tensor scales = at::randint(1, 0x7F, {40, 4}, at::kByte),
                     d = step_sizes(scales, global);
    EXPECT_TRUE(at::equal(by_operators::step_sizes(scales, global), d));
    const at::Tensor moved = d * (1 + 0.1 * at::randn_like(d)), ours = at::empty_like(scales),
                     theirs = at::empty_like(scales);
    moved.view(-1)[0] = -1;
    moved.view(-1)[1] = 1e9;
    encode_step_sizes(moved, global, ours);
    by_operators::encode_step_sizes(moved, global, theirs);
    EXPECT_TRUE(at::equal(ours, theirs));
    for (const bool half : {false, true}) {
      const at::Tensor master = half ? w.to(at::kBFloat16) : w;
      const at::Tensor a = step_gradient(gradient, master, scales, global),
                       b = by_operators::step_gradient(gradient, master, scales, global);
      EXPECT_TRUE(at::allclose(a, b, 1e-4, 1e-4 * a.abs().max().item<double>()));
    }
  }
}

// Small steps: a step size is a tenth of a weight.
TrainConfig slow_train() {
  TrainConfig config = tiny_train();
  config.learning_rate = 3e-4;
  return config;
}

// A model rounded by GPTQ under scales of a local Hessian, or by the rule with scales as data.
struct Chosen : Pair {
  explicit Chosen(bool by_hessians) {
    if (by_hessians) {
      policy.hessian_scales = true;
      policy.rounding = quantize::Rounding::gptq;
      student = random_model(tiny_config());
      const data::Stream stream = random_stream();
      std::vector<models::Tokens> tokens;
      for (int i = 0; i < 8; ++i) tokens.push_back(stream.batch(4 * i, 4).tokens);
      const auto amax = quantize::calibrate(student, tokens);
      auto made = quantize::quantize_by_hessians(student, policy, amax, tokens);
      masters.clear();
      for (const at::Tensor& t : made.masters) masters.push_back(t.clone());
    } else {
      quantize::fix_scales(student, policy, masters);
    }
  }
  std::vector<at::Tensor> scales() {
    std::vector<at::Tensor> all;
    for (const models::Linear* l : models::linears(student))
      if (l->quant) all.push_back(l->quant->weight_scales.clone());
    return all;
  }
};

struct Outcome {
  std::vector<at::Tensor> masters, values, scales;
  TrainResult result;
};

Outcome run(const TrainConfig& config, bool by_hessians, std::int64_t stop_after = -1) {
  Chosen pair(by_hessians);
  std::vector<at::Tensor> masters;
  for (const at::Tensor& t : pair.masters) masters.push_back(t.clone());
  Trainer trainer(pair.student, masters, &pair.teacher, pair.policy, config);
  std::int64_t last = 0;
  Callbacks callbacks;
  callbacks.step = [&](const StepInfo& s) { last = s.step; };
  callbacks.stop = [&] { return last == stop_after; };
  Outcome out;
  out.result = trainer.train(random_stream(), random_batches(), callbacks);
  const auto parameters = models::parameters(pair.student);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    out.masters.push_back(trainer.masters()[i].clone());
    out.values.push_back(parameters[i]->value.clone());
    for (models::Linear* l : models::linears(pair.student)) {
      if (&l->weight != parameters[i] || !l->quant) continue;
      at::Tensor shipped = at::empty_like(out.values[i]);
      quantize::shipped_value("w", out.masters[i], l->quant.get(), pair.policy.global, shipped);
      EXPECT_TRUE(at::equal(shipped, out.values[i])) << parameters[i]->parts[0].name;
    }
  }
  out.scales = pair.scales();
  return out;
}

bool equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const at::Tensor& x, const at::Tensor& y) { return at::equal(x, y); });
}

struct Folder {
  fs::path path = fs::path(::testing::TempDir()) / fmt::format("qad_scales_{}", ::getpid());
  Folder() { fs::remove_all(path); }
  ~Folder() { fs::remove_all(path); }
};

TEST(ChosenScales, StayWhileTraining) {
  for (const bool split : {false, true}) {
    TrainConfig config = slow_train();
    config.split_masters = split;
    const Outcome out = run(config, true);
    EXPECT_TRUE(equal(out.scales, Chosen(true).scales()));
    EXPECT_FALSE(equal(out.masters, Chosen(true).masters));
  }
}

TEST(ChosenScales, ResumeToTheSameBitsAndAreHeldToTheirRun) {
  for (const bool learned : {false, true}) {
    TrainConfig config = slow_train();
    config.learn_scales = learned;
    const Outcome whole = run(config, true);
    const Folder folder;
    config.state_folder = folder.path;
    run(config, true, 7);
    const Outcome resumed = run(config, true);
    EXPECT_TRUE(equal(resumed.masters, whole.masters));
    EXPECT_TRUE(equal(resumed.values, whole.values));
    EXPECT_TRUE(equal(resumed.scales, whole.scales));
    config.learn_scales = !learned;
    try {
      run(config, true);
      FAIL();
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("learn_scales was"));
    }
    config.learn_scales = learned;
    try {
      run(config, false);
      FAIL();
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("was"));
    }
  }
}

TEST(LearnedScales, LearnAndComeBackWithTheirCandidate) {
  for (const bool on_disk : {false, true}) {
    const Folder folder;
    TrainConfig config = slow_train();
    config.learn_scales = true;
    config.scales_rate = 1;  // enough of a step that codes change
    const Outcome ten = run(config, false, 10);
    EXPECT_FALSE(equal(ten.scales, Chosen(false).scales()));
    EXPECT_LT(ten.result.validations.back().kl, ten.result.validations.front().kl);
    if (on_disk) config.state_folder = folder.path;
    Chosen pair(false);
    Trainer trainer(pair.student, pair.masters, &pair.teacher, pair.policy, config);
    const TrainResult result = trainer.train(random_stream(), random_batches(), {});
    ASSERT_THAT(result.kept, ::testing::Contains(::testing::Field(&Validation::step, 10)));
    EXPECT_FALSE(equal(pair.scales(), ten.scales));
    trainer.restore(10);
    EXPECT_TRUE(equal(pair.scales(), ten.scales));
    EXPECT_TRUE(equal(values_of(pair.student), ten.values));
  }
}

TEST(LearnedScales, KeepStillAtARateOfNought) {
  TrainConfig config = slow_train();
  config.learn_scales = true;
  config.scales_rate = 0;
  const Outcome out = run(config, true, 10);
  EXPECT_TRUE(equal(out.scales, Chosen(true).scales()));
  EXPECT_FALSE(equal(out.masters, Chosen(true).masters));
}

TEST(LearnedScales, WantScalesAsData) {
  Pair pair;
  TrainConfig config = tiny_train();
  config.learn_scales = true;
  EXPECT_THROW(Trainer(pair.student, pair.masters, &pair.teacher, pair.policy, config), Error);
}

}  // namespace
}  // namespace qad::distill
