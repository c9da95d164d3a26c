// Low-rank corrections: what they take from a weight, that the model stays itself, and that what is
// written is read again.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "checkpoint/formats.h"
#include "core/error.h"
#include "models/verify.h"
#include "quantize/low_rank.h"
#include "quantize/quantize.h"

namespace qad::quantize {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

checkpoint::Checkpoint source(const std::string& name) {
  return checkpoint::open(fs::path(QAD_SOURCE_DIR) / "tests/golden/models" / name);
}

std::vector<models::Tokens> batches() {
  return {models::tokens_of({{1, 5, 9, 70, 33, 2}, {4, 4, 8}}), models::tokens_of({{95, 3, 17}})};
}

at::Tensor logits(const models::Model& model) {
  const at::NoGradGuard no_grad;
  return models::logits(model, models::forward(model, batches()[0]));
}

Policy with_rank(std::int64_t rank) {
  Policy policy = preset("nvfp4");
  policy.low_rank = rank;
  return policy;
}

std::vector<at::Tensor> values_of(const models::Model& model) {
  std::vector<at::Tensor> out;
  for (const models::Parameter* p : models::parameters(model)) out.push_back(p->value.clone());
  return out;
}

// Eckart and Young: nothing of this rank is nearer than the largest singular values.
TEST(LowRank, FactorsAreTheLargestSingularValues) {
  at::manual_seed(3);
  for (const auto& [rows, cols] : {std::pair{96, 40}, {33, 200}, {64, 64}}) {
    // Some large directions over noise, as weights have.
    const at::Tensor w =
        at::randn({rows, cols}) + at::randn({rows, 6}).mul(3).matmul(at::randn({6, cols}));
    for (const std::int64_t rank : {1, 8, 24}) {
      const Factors f = largest_factors(w, rank);
      EXPECT_TRUE(at::equal(f.up, f.up.to(at::kBFloat16).to(at::kFloat)));
      EXPECT_TRUE(at::equal(f.down, f.down.to(at::kBFloat16).to(at::kFloat)));
      const auto [u, s, v] = at::linalg_svd(w.to(at::kDouble), false);
      const double least = s.narrow(0, rank, s.size(0) - rank).square().sum().item<double>();
      const double kept = s.narrow(0, 0, rank).square().sum().item<double>();
      const double left = w.sub(f.up.matmul(f.down)).to(at::kDouble).square().sum().item<double>();
      // Rounding both factors to BF16 errs by at most 2^-9 of each product's terms: 2^-16 of their
      // squares, and mostly at right angles to what is left.
      EXPECT_LE(left, 1.01 * least + kept * 0x1p-16) << rows << ' ' << cols << ' ' << rank;
      EXPECT_TRUE(at::equal(f.up, largest_factors(w, rank).up));
    }
  }
}

class LowRankModels : public ::testing::TestWithParam<const char*> {};

TEST_P(LowRankModels, ComputeWhatTheyDid) {
  models::Model model = models::load(source(GetParam()));
  const at::Tensor before = logits(model);
  const Policy policy = with_rank(4);
  split_low_rank(model, policy);
  std::size_t corrected = 0;
  for (const models::Linear* l : models::linears(model)) {
    corrected += l->low_rank.has_value();
    EXPECT_FALSE(l->low_rank && !models::takes_low_rank(*l)) << l->kind;
  }
  EXPECT_GT(corrected, 0u);
  // What BF16 takes off the factors stays in R: FP32 sums in another order.
  EXPECT_LT((logits(model) - before).abs().max().item<float>(),
            1e-4 * before.abs().max().item<float>());
}

TEST_P(LowRankModels, AreReadAsTheyWereWritten) {
  const auto from = source(GetParam());
  models::Model model = models::load(from);
  const Policy policy = with_rank(4);
  split_low_rank(model, policy);
  auto amax = calibrate(model, batches());
  lend_maxima(model, amax);
  const auto masters = values_of(model);
  quantize(model, policy, amax);
  const fs::path path = fs::temp_directory_path() / fmt::format("qad_low_rank_{}", ::getpid());
  fs::remove_all(path);
  checkpoint::format_named("modelopt").write(path, export_model(model, masters, from));
  auto written = checkpoint::open(path);
  EXPECT_THAT(models::problems(written), IsEmpty());
  {  // without its corrections it is another model
    auto bare = checkpoint::open(path);
    std::erase_if(bare.tensors, [](const auto& t) {
      return t.first.find(".svdquant_lora_") != std::string::npos;
    });
    EXPECT_THAT(fmt::format("{}", fmt::join(models::problems(bare), "\n")),
                HasSubstr("NVFP4_SVD without its svdquant_lora_a"));
  }
  const models::Model read = models::load(written);
  EXPECT_TRUE(at::equal(logits(read), logits(model)));
  const models::Model packed = models::load(written, {at::kCPU, at::kFloat, false, 0, true});
  EXPECT_LT((logits(packed) - logits(model)).abs().max().item<float>(), 1e-4);
  fs::remove_all(path);
}

INSTANTIATE_TEST_SUITE_P(All, LowRankModels,
                         ::testing::Values("llama", "qwen2", "nemotron_h_experts"));

// What no product would apply, or of a rank that cannot be, is no part of the model.
TEST(LowRank, StrayCorrectionsAreProblems) {
  auto c = source("nemotron_h_experts");
  const auto stray = [&](const std::string& linear, std::int64_t rank) {
    checkpoint::Checkpoint bad = source("nemotron_h_experts");
    checkpoint::Tensor t = bad.tensors.begin()->second;
    t.name = linear + ".svdquant_lora_a";
    t.shape = {rank, 32};
    bad.tensors[t.name] = t;
    return fmt::format("{}", fmt::join(models::problems(bad), "\n"));
  };
  std::string expert, other;
  const models::Model model = models::load(c);
  for (const models::Linear* l : models::linears(model)) {
    if (l->layer < 0) continue;
    (models::takes_low_rank(*l) ? other : expert) = linear_name(l->weight.parts.front());
  }
  EXPECT_THAT(stray(expert, 4), HasSubstr("not part of a NemotronH"));
  EXPECT_THAT(stray(other, 0), HasSubstr("not part of a NemotronH"));
  EXPECT_THAT(stray(other, std::int64_t{1} << 62), HasSubstr("not part of a NemotronH"));
  EXPECT_THAT(stray("lm_head", 4), HasSubstr("not part of a NemotronH"));
}

TEST(LowRank, TakesErrorAway) {
  std::vector<double> sums;
  for (const std::int64_t rank : {0, 8}) {
    models::Model model = models::load(source("llama"));
    const Policy policy = with_rank(rank);
    split_low_rank(model, policy);
    const auto originals = values_of(model);
    quantize(model, policy, calibrate(model, batches()));
    double sum = 0;
    for (const LayerError& e : weight_errors(model, originals)) sum += e.sqnr_db;
    sums.push_back(sum);
  }
  EXPECT_GT(sums[1], sums[0]);
}

// Both matrices learn, to the same gradients where their layers run again.
TEST(LowRank, GradientsReachIt) {
  std::vector<std::vector<at::Tensor>> gradients;
  for (const std::int64_t again : {0, 2}) {
    models::Model model = models::load(source("llama"));
    const Policy policy = with_rank(4);
    split_low_rank(model, policy);
    quantize(model, policy, calibrate(model, batches()));
    model.placement.recomputed_layers = again;
    for (models::Parameter* p : models::parameters(model)) p->value.set_requires_grad(true);
    models::forward(model, batches()[0]).square().sum().backward();
    auto& found = gradients.emplace_back();
    for (const models::Linear* l : models::linears(model))
      if (l->low_rank)
        for (const models::Parameter* p : {&l->low_rank->down, &l->low_rank->up}) {
          ASSERT_TRUE(p->value.grad().defined()) << p->parts.front().name;
          EXPECT_GT(p->value.grad().abs().max().item<float>(), 0) << p->parts.front().name;
          found.push_back(p->value.grad());
        }
  }
  ASSERT_EQ(gradients[0].size(), gradients[1].size());
  for (std::size_t i = 0; i < gradients[0].size(); ++i)
    EXPECT_TRUE(at::equal(gradients[0][i], gradients[1][i])) << i;
}

TEST(LowRank, PlansAndRefusesBeforeTheWork) {
  const auto from = source("llama");
  models::Model shape = models::build(models::load(from).config);
  const std::int64_t before = models::parameter_count(shape);
  add_low_rank(shape, with_rank(4));
  EXPECT_GT(models::parameter_count(shape), before);
  std::int64_t in_table = 0;
  for (const CoverageRow& row : coverage(shape, with_rank(4)))
    if (row.kind == "low rank") in_table += row.parameters;
  EXPECT_EQ(in_table, models::parameter_count(shape) - before);
  const auto m = outline(from, shape, with_rank(4));
  for (const checkpoint::Format& f : checkpoint::formats()) {
    if (f.name == "modelopt") continue;
    try {
      f.lay_out(m);
      ADD_FAILURE() << f.name;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("no place for low-rank corrections")) << f.name;
    }
  }
  EXPECT_NO_THROW(checkpoint::format_named("modelopt").lay_out(m));
  try {
    add_low_rank(shape, with_rank(1000));
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("q_proj: expected a rank below the matrix's"));
  }
}

}  // namespace
}  // namespace qad::quantize
