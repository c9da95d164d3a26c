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
  const auto groups = sensitivities(model, policy, true, amax, batches());
  EXPECT_LT(kl(plain, model), 1e-12);  // it is as it was
  std::int64_t weights = 0;
  double kl_nvfp4 = 0, kl_fp8 = 0;
  for (const Sensitivity& g : groups) {
    weights += g.weights;
    const auto alone = [&](ops::Precision precision) {
      Policy one = preset("nvfp4");
      one.rules.push_back({"*", false, ""});
      for (const std::string& pattern : g.patterns)
        one.rules.push_back({pattern, true, "", precision});
      models::Model quantised = load(GetParam());
      quantize(quantised, one, amax);
      return kl(plain, quantised);
    };
    const double want = alone(ops::Precision::nvfp4), fp8 = alone(ops::Precision::fp8);
    EXPECT_GT(want, 0) << g.patterns[0];
    EXPECT_GT(fp8, 0) << g.patterns[0];
    // Sums of FP32 logits.
    EXPECT_NEAR(g.kl, want, 1e-3 * want + 1e-6) << g.patterns[0];
    ASSERT_TRUE(g.kl_fp8.has_value()) << g.patterns[0];
    EXPECT_NEAR(*g.kl_fp8, fp8, 1e-3 * fp8 + 1e-6) << g.patterns[0];
    kl_nvfp4 += want;
    kl_fp8 += fp8;
  }
  EXPECT_LT(kl_fp8, 0.5 * kl_nvfp4);  // two bits of mantissa more
  for (const Sensitivity& g : sensitivities(model, policy, false, amax, batches()))
    EXPECT_FALSE(g.kl_fp8.has_value());
  // What the policy has in FP8 is tried in FP8 alone.
  policy.rules.push_back({groups[0].patterns[0], true, "", ops::Precision::fp8});
  if (groups[0].patterns.size() == 1 && groups[0].kind != "experts") {
    const auto mixed = sensitivities(model, policy, true, amax, batches());
    EXPECT_EQ(mixed[0].least, Format::fp8);
    EXPECT_FALSE(mixed[0].kl_fp8.has_value());
    EXPECT_EQ(mixed[0].kl, *groups[0].kl_fp8);
    EXPECT_EQ(mixed[1].kl, groups[1].kl);
  }
  std::int64_t all = 0;
  for (const models::Linear* l : models::linears(plain)) all += l->weight.value.numel();
  EXPECT_EQ(weights, all);
}
INSTANTIATE_TEST_SUITE_P(Sensitivity, Sensitivities,
                         ::testing::Values("llama", "qwen2", "nemotron_h_experts"),
                         [](const auto& info) { return std::string(info.param); });

Sensitivity group(std::int64_t weights, double kl) {
  return {"o", 0, {"x" + std::to_string(weights)}, weights, kl};
}

TEST(Choose, KeepsWithinItsBudget) {
  const std::vector<Sensitivity> groups = {group(100, 1), group(100, 5), group(200, 4)};
  const auto kept = [&](double bits, double found) {
    auto chosen = groups;
    EXPECT_DOUBLE_EQ(choose(chosen, bits), found) << bits;
    std::string text;
    for (const Sensitivity& g : chosen) text += g.format == Format::nvfp4 ? '4' : 'B';
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

// Groups of two or three choices each, some of whose FP8 costs more KL than their NVFP4.
std::vector<Sensitivity> random_groups(Random& random) {
  std::vector<Sensitivity> groups;
  for (int i = 0; i < 8; ++i) {
    groups.push_back(
        group(16 * (1 + static_cast<std::int64_t>(random.below(12))), random.uniform()));
    Sensitivity& g = groups.back();
    if (random.below(4) == 0)
      g.least = g.format = Format::fp8;
    else if (random.below(5) > 0)
      g.kl_fp8 = g.kl * (random.uniform() + 0.1 * static_cast<double>(random.below(3)));
  }
  return groups;
}

double bits_of(Format f) {
  return f == Format::bf16 ? kBf16Bits : f == Format::fp8 ? kFp8Bits : kNvfp4Bits;
}

TEST(Choose, IsTheBestOfAllChoices) {
  Random random{11};
  for (int trial = 0; trial < 60; ++trial) {
    std::vector<Sensitivity> groups = random_groups(random);
    double all = 0, least = 0;
    for (const Sensitivity& g : groups) {
      all += static_cast<double>(g.weights);
      least += static_cast<double>(g.weights) * bits_of(g.least);
    }
    const double budget = least / all + (16 - least / all) * random.uniform();
    const auto kl_in = [](const Sensitivity& g, Format f) {
      return f == Format::bf16 ? 0 : f == g.least ? g.kl : *g.kl_fp8;
    };
    double best = 1e9;
    for (int set = 0; set < 6561; ++set) {  // 3^8
      double bits = 0, kl = 0;
      bool possible = true;
      int rest = set;
      for (const Sensitivity& g : groups) {
        const auto f = static_cast<Format>(rest % 3);
        rest /= 3;
        possible &= f == g.least || f == Format::bf16 || (f == Format::fp8 && g.kl_fp8.has_value());
        if (!possible) break;
        bits += bits_of(f) * static_cast<double>(g.weights);
        kl += kl_in(g, f);
      }
      if (possible && bits <= budget * all) best = std::min(best, kl);
    }
    const double mean = choose(groups, budget);
    double bits = 0, kl = 0;
    for (const Sensitivity& g : groups) {
      ASSERT_GE(g.format, g.least);
      bits += bits_of(g.format) * static_cast<double>(g.weights);
      kl += kl_in(g, g.format);
    }
    EXPECT_DOUBLE_EQ(mean, bits / all);
    EXPECT_LE(mean, budget + 1e-9);
    EXPECT_NEAR(kl, best, 1e-12) << trial;
  }
}

TEST(Choose, SaysWhatThePolicysOwnPrecisionsTake) {
  std::vector<Sensitivity> groups = {group(100, 1), group(300, 2)};
  groups[1].least = groups[1].format = Format::fp8;
  EXPECT_THAT([&] { choose(groups, 7); }, ::testing::Throws<Error>(::testing::Property(
                                              &Error::what, HasSubstr("at least 7.1250"))));
  EXPECT_DOUBLE_EQ(choose(groups, 7.125), 7.125);
  EXPECT_TRUE(rules_of(groups).empty());
}

TEST(Choose, ItsRulesSayTheSame) {
  std::vector<Sensitivity> groups = {group(1, 1), group(2, 1), group(3, 1)};
  groups[1].format = Format::fp8;
  groups[2].format = Format::bf16;
  const auto rules = rules_of(groups);
  ASSERT_EQ(rules.size(), 2u);
  EXPECT_EQ(rules[0].pattern, "x2");
  EXPECT_TRUE(rules[0].quantize && rules[0].precision == ops::Precision::fp8);
  EXPECT_EQ(rules[1].pattern, "x3");
  EXPECT_FALSE(rules[1].quantize);
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
