// What a transformation promises: the same function, and less error where there are outliers.
#include "quantize/transform.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "checkpoint/formats.h"
#include "core/error.h"
#include "core/random.h"
#include "models/verify.h"
#include "quantize/quantize.h"

namespace qad::quantize {
namespace {

using ::testing::HasSubstr;

checkpoint::Checkpoint source(const char* name) {
  return checkpoint::open(fs::path(QAD_SOURCE_DIR) / "tests/golden/models" / name);
}

std::vector<models::Tokens> batches() {
  return {models::tokens_of({{1, 5, 9, 70, 33, 2}, {4, 4, 8}}), models::tokens_of({{95, 3, 17}})};
}

at::Tensor run(const models::Model& model) {
  const at::NoGradGuard no_grad;
  return models::logits(model, models::forward(model, batches()[0]));
}

// A sum of K products has a rounding error of at most K u of its terms' magnitudes, u = 2^-24, in
// the folded weight as in the product that reads it, and a residual stream collects those of its
// layers' products one behind the other: two models that compute one function may differ by
// 2 K u a product, with 4 products a layer and the head. What a softmax or norm makes of it is of
// the same order.
double tolerance(const models::Model& model, const at::Tensor& logits) {
  std::int64_t widest = 0;
  for (const models::Linear* l : models::linears(model))
    widest = std::max(widest, l->weight.value.size(1));
  const auto products = static_cast<double>(4 * model.layers.size() + 1);
  return 2 * products * static_cast<double>(widest) * 0x1p-24 * logits.abs().max().item<double>();
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

class Transforms : public ::testing::TestWithParam<const char*> {
 protected:
  models::Model model = models::load(source(GetParam()));
  const at::Tensor before = run(model);
};

TEST_P(Transforms, ScalingEverySiteKeepsTheFunction) {
  Random random{7};
  std::size_t count = 0;
  for (models::Layer& layer : model.layers) {
    for (const Site& site : sites(layer)) {
      const at::Tensor s = at::empty({site.channels}, at::kFloat);
      for (std::int64_t i = 0; i < site.channels; ++i) s[i] = std::exp2(4 * random.uniform() - 2);
      const at::Tensor maker = site.maker->value.clone();
      scale(site, s);
      EXPECT_FALSE(at::equal(maker, site.maker->value)) << site.name;
      ++count;
    }
    EXPECT_LT(distance(run(model), before), tolerance(model, before)) << count;
  }
  EXPECT_GE(count, model.layers.size());
}

TEST_P(Transforms, RotationKeepsTheFunction) {
  const bool tied = model.config.tied;
  EXPECT_EQ(untie_head(model), tied);
  EXPECT_FALSE(untie_head(model));
  EXPECT_TRUE(at::equal(run(model), before));
  const at::Tensor embedding = model.embedding.value.clone();
  rotate(model, 3);
  EXPECT_LT(distance(run(model), before), tolerance(model, before));
  EXPECT_GT(distance(embedding, model.embedding.value), 1e-2);
  EXPECT_TRUE(at::equal(model.final_norm.value, at::ones({model.config.hidden})));
}

TEST_P(Transforms, ChosenScalesKeepTheFunction) {
  for (const auto rule : {ScaleRule::smoothquant, ScaleRule::awq}) {
    for (const SiteScales& s : scale_channels(model, preset("nvfp4"), rule, 0.5, batches())) {
      if (rule == ScaleRule::smoothquant) continue;
      EXPECT_LE(s.error_after, s.error_before) << s.name;
    }
    EXPECT_LT(distance(run(model), before), tolerance(model, before));
    EXPECT_FALSE(at::equal(run(model), before));
  }
}

INSTANTIATE_TEST_SUITE_P(Transform, Transforms,
                         ::testing::Values("llama", "llama_bias_tied", "mistral", "qwen2",
                                           "qwen3_yarn", "nemotron_h", "nemotron_h_all",
                                           "nemotron_h_experts"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Hadamard, IsOrthogonalAndFlat) {
  for (const std::int64_t n : {1, 2, 12, 64, 576, 896}) {
    const at::Tensor q = hadamard(n, 5).to(at::kDouble);
    EXPECT_LT(distance(q.mm(q.t()), at::eye(n, at::kDouble)), 1e-6) << n;
    EXPECT_LE(q.abs().max().item<double>(), std::sqrt(2.0 / static_cast<double>(n)) + 1e-7) << n;
  }
  // A power of two: all entries have one magnitude.
  EXPECT_LT(distance(hadamard(64, 5).abs(), at::full({64, 64}, 1.0 / 8)), 1e-7);
  EXPECT_FALSE(at::equal(hadamard(64, 5), hadamard(64, 6)));
}

// Makes one input channel of each layer's first product 64 times as large, by the norm before it.
void add_outliers(models::Model& model) {
  for (models::Layer& layer : model.layers) {
    layer.mixer_norm->value.select(0, 3).mul_(64);
    layer.attention->qkv.weight.value.select(1, 3).div_(64);
  }
}

// Between what `policy` makes of the model and the model.
double error_of(models::Model& model, const Policy& policy) {
  const at::Tensor want = run(model);
  quantize(model, policy, calibrate(model, batches()));
  return (run(model) - want).square().mean().item<double>();
}

// A weight that is 64 times smaller than its neighbours, but whose input is as much larger, is lost
// in a block with them. The scale that undoes this makes the error that of the model without
// outliers.
TEST(Scaling, UndoesOutliersOfInputs) {
  const Policy policy = preset("nvfp4-weight-only");
  models::Model plain = models::load(source("llama"));
  const double without = error_of(plain, policy);
  models::Model spoilt = models::load(source("llama"));
  add_outliers(spoilt);
  const double with = error_of(spoilt, policy);
  models::Model scaled = models::load(source("llama"));
  add_outliers(scaled);
  const auto found = scale_channels(scaled, policy, ScaleRule::awq, 0, batches());
  const double after = error_of(scaled, policy);
  EXPECT_GT(with, 2 * without);
  EXPECT_LT(after, (with + without) / 2);
  EXPECT_GT(found.front().alpha, 0.2);
  EXPECT_THAT(found.front().name, HasSubstr("layers.0.self_attn.q_proj"));
}

// s = max |x|^1 / max |w|^0: every channel's largest input becomes the same.
TEST(Scaling, SmoothingByInputsAloneLevelsThem) {
  models::Model model = models::load(source("llama"));
  scale_channels(model, preset("nvfp4"), ScaleRule::smoothquant, 1, batches());
  std::map<const models::Linear*, at::Tensor> largest;
  for (const auto& batch : batches())
    models::forward(model, batch, [&](const models::Linear& l, const at::Tensor& x) {
      const at::Tensor here = x.abs().amax(0);
      at::Tensor& most = largest[&l];
      most = most.defined() ? most.maximum(here) : here;
    });
  const at::Tensor of_qkv = largest.at(&model.layers[0].attention->qkv);
  EXPECT_LT((of_qkv.max() / of_qkv.min()).item<double>(), 1 + 1e-5);
}

TEST(Rotate, NamesWhatItCannotTake) {
  models::Model tied = models::load(source("llama_bias_tied"));
  EXPECT_THAT([&] { rotate(tied, 0); },
              ::testing::Throws<Error>(::testing::Property(&Error::what, HasSubstr("the head"))));
  models::Model model = models::load(source("llama"));
  quantize(model, preset("nvfp4-weight-only"), {});
  EXPECT_THAT([&] { rotate(model, 0); },
              ::testing::Throws<Error>(
                  ::testing::Property(&Error::what, HasSubstr("layers.0.self_attn.q_proj"))));
}

// A rotated model is written with a head of its own and is read back to the same bits.
TEST(Rotate, UntiedModelsAreWrittenAsSuch) {
  const auto c = source("llama_bias_tied");
  models::Model model = models::load(c);
  untie_head(model);
  rotate(model, 1);
  std::vector<at::Tensor> masters;
  for (const models::Parameter* p : models::parameters(model)) masters.push_back(p->value.clone());
  quantize(model, preset("nvfp4"), calibrate(model, batches()));
  const fs::path folder = fs::temp_directory_path() / fmt::format("qad_rotate_{}", ::getpid());
  checkpoint::format_named("modelopt").write(folder, export_model(model, masters, c));
  const auto written = checkpoint::open(folder);
  EXPECT_THAT(models::problems(written), ::testing::IsEmpty());
  EXPECT_FALSE(written.config["tie_word_embeddings"].get<bool>());
  EXPECT_TRUE(at::equal(run(models::load(written)), run(model)));
  fs::remove_all(folder);
}

}  // namespace
}  // namespace qad::quantize
