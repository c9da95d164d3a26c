// Sensitivities against what quantising the group really does, and the choice against all choices.
#include "quantize/sensitivity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/random.h"
#include "quantize/quantize.h"

namespace qad::quantize {
namespace {

using ::testing::HasSubstr;

models::Model load(const char* name) {
  return models::load(checkpoint::open(fs::path(QAD_SOURCE_DIR) / "tests/golden/models" / name));
}

std::vector<models::Tokens> batches() {
  return {models::tokens_of({{1, 5, 9, 70, 33, 2}, {4, 4, 8}}), models::tokens_of({{95, 3, 17}})};
}

std::vector<float> maxima(const models::Model& model) {
  auto amax = calibrate(model, batches());
  lend_maxima(model, amax);
  return amax;
}

// From whole logits.
double kl(const models::Model& a, const models::Model& b) {
  const at::NoGradGuard no_grad;
  double sum = 0;
  std::int64_t tokens = 0;
  for (const auto& batch : batches()) {
    const auto log_p = [&](const models::Model& m) {
      return models::logits(m, models::forward(m, batch)).to(at::kDouble).log_softmax(1);
    };
    const at::Tensor p = log_p(a), q = log_p(b);
    sum += p.exp().mul(p.sub(q)).sum().item<double>();
    tokens += p.size(0);
  }
  return sum / static_cast<double>(tokens);
}

class Sensitivities : public ::testing::TestWithParam<const char*> {};

TEST_P(Sensitivities, AreThoseOfQuantisingOneGroupAlone) {
  const models::Model plain = load(GetParam());
  models::Model model = load(GetParam());
  const auto amax = maxima(model);
  Policy policy = preset("nvfp4");
  policy.rules.push_back({"lm_head", true, ""});
  const auto groups = sensitivities(model, policy, amax, batches());
  EXPECT_LT(kl(plain, model), 1e-12);  // it is as it was
  std::int64_t weights = 0;
  for (const Sensitivity& g : groups) {
    weights += g.weights;
    Policy alone = preset("nvfp4");
    alone.rules.push_back({"*", false, ""});
    for (const std::string& pattern : g.patterns) alone.rules.push_back({pattern, true, ""});
    models::Model quantised = load(GetParam());
    quantize(quantised, alone, amax);
    const double want = kl(plain, quantised);
    EXPECT_GT(want, 0) << g.patterns[0];
    // Sums of FP32 logits.
    EXPECT_NEAR(g.kl, want, 1e-3 * want + 1e-6) << g.patterns[0];
  }
  std::int64_t all = 0;
  for (const models::Linear* l : models::linears(plain)) all += l->weight.value.numel();
  EXPECT_EQ(weights, all);
}
INSTANTIATE_TEST_SUITE_P(Sensitivity, Sensitivities,
                         ::testing::Values("llama", "qwen2", "nemotron_h_experts"),
                         [](const auto& info) { return std::string(info.param); });

Sensitivity group(std::int64_t weights, double kl) {
  return {"o", 0, {"x" + std::to_string(weights)}, weights, kl, true};
}

TEST(Choose, KeepsWithinItsBudget) {
  const std::vector<Sensitivity> groups = {group(100, 1), group(100, 5), group(200, 4)};
  const auto kept = [&](double bits, double found) {
    auto chosen = groups;
    EXPECT_DOUBLE_EQ(choose(chosen, bits), found) << bits;
    std::string text;
    for (const Sensitivity& g : chosen) text += g.quantised ? '4' : 'B';
    return text;
  };
  // A hundred of 400 weights cost a quarter of 11.5 bits.
  EXPECT_EQ(kept(4.5, 4.5), "444");
  EXPECT_EQ(kept(4.5 + 11.5 / 4, 4.5 + 11.5 / 4), "4B4");
  EXPECT_EQ(kept(4.5 + 11.5 * 0.7, 4.5 + 11.5 / 2), "BB4");  // the second best does not fit
  EXPECT_EQ(kept(4.5 + 11.5 * 0.75, 4.5 + 11.5 * 0.75), "4BB");
  EXPECT_EQ(kept(16, 16), "BBB");
  auto none = groups;
  for (const double bits : {4.4, 16.1})
    EXPECT_THAT([&] { choose(none, bits); },
                ::testing::Throws<Error>(::testing::Property(&Error::what, HasSubstr("bits"))));
}

// Greedy by worth is at most one group away from the best choice: what it keeps is worth at least
// the best of the budget less its largest group.
TEST(Choose, IsNearTheBestOfAllChoices) {
  Random random{11};
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<Sensitivity> groups;
    for (int i = 0; i < 10; ++i)
      groups.push_back(group(1 + static_cast<std::int64_t>(random.below(50)), random.uniform()));
    double all = 0, most = 0, best = 0;
    for (const Sensitivity& g : groups) {
      all += static_cast<double>(g.weights);
      most = std::max(most, g.kl);
    }
    const double room = all * 0.4;
    for (unsigned set = 0; set < 1024; ++set) {
      double weights = 0, worth = 0;
      for (unsigned i = 0; i < 10; ++i)
        if ((set >> i & 1) != 0) {
          weights += static_cast<double>(groups[i].weights);
          worth += groups[i].kl;
        }
      if (weights <= room) best = std::max(best, worth);
    }
    EXPECT_LE(choose(groups, 4.5 + 11.5 * 0.4), 4.5 + 11.5 * 0.4 + 1e-9);
    double worth = 0;
    for (const Sensitivity& g : groups) worth += g.quantised ? 0 : g.kl;
    EXPECT_GE(worth, best - most);
  }
}

TEST(PartKls, NameTheLayerThatDiffers) {
  const models::Model a = load("llama");
  models::Model b = load("llama");
  b.layers[1].mlp->down.weight.value.mul_(1.5);
  const auto parts = part_kls(a, b, batches());
  ASSERT_EQ(parts.size(), a.layers.size() + 3);
  for (const PartKl& p : parts) {
    const bool differs = p.part == "layer 1" || p.part == "all of B";
    if (differs)
      EXPECT_NEAR(p.kl, kl(a, b), 1e-3 * kl(a, b) + 1e-6) << p.part;
    else
      EXPECT_LT(p.kl, 1e-9) << p.part;
  }
  // The head counts with the norm before it.
  models::Model c = load("llama");
  c.final_norm.value.mul_(2);
  EXPECT_GT(part_kls(a, c, batches())[a.layers.size() + 1].kl, 1e-3);
}

}  // namespace
}  // namespace qad::quantize
