// Which matrices a policy takes, and the coverage table's sums against the shapes.
#include "quantize/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace qad::quantize {
namespace {

using ::testing::HasSubstr;

models::Model model(std::int64_t width = 96) {
  models::ModelConfig config;
  config.hidden = 64;
  config.vocabulary = 100;
  config.layers.assign(3, {models::AttentionConfig{4, 2, 16}, models::MlpConfig{width}});
  return models::build(config);
}

// One letter a linear: Q quantised, . left.
std::string picture(const models::Model& m, const Policy& p) {
  std::string out;
  for (const models::Linear* l : models::linears(m)) out += decide(p, *l, 3).quantize ? 'Q' : '.';
  return out;
}

Policy with(auto&& change) {
  Policy p;
  change(p);
  return p;
}

TEST(Policy, RulesAndPresets) {
  const auto m = model();  // qkv, o, gate_up, down in three layers, lm_head
  EXPECT_EQ(picture(m, preset("nvfp4")), "QQQQQQQQQQQQ.");
  EXPECT_EQ(picture(m, preset("nvfp4-mlp-only")), "..QQ..QQ..QQ.");
  EXPECT_EQ(picture(m, with([](Policy& p) { p.keep_first = 1, p.keep_last = 1; })),
            "....QQQQ.....");
  EXPECT_EQ(
      picture(m, with([](Policy& p) {
                p.rules = {{"*", false, ""}, {"*.layers.1.mlp.*", true, ""}, {"lm_head", true, ""}};
              })),
      "......QQ....Q");
  EXPECT_EQ(picture(model(88), Policy{}), "QQQ.QQQ.QQQ..");  // K of down_proj is 88
}

TEST(Policy, Errors) {
  const auto m = model();
  const auto message = [&](const Policy& p) -> std::string {
    try {
      coverage(m, p);
    } catch (const Error& e) {
      return e.what();
    }
    return "none";
  };
  EXPECT_THAT(message(with([](Policy& p) {
                p.rules = {{"*.q_proj", false, ""}};
              })),
              HasSubstr("must be quantised together"));
  EXPECT_THAT(message(with([](Policy& p) {
                p.rules = {{"*.fc1", false, ""}};
              })),
              HasSubstr("\"*.fc1\" matches no linear"));
  EXPECT_THAT(message(with([](Policy& p) { p.keep_first = 4; })), HasSubstr("keep_first 4"));
  EXPECT_THROW(preset("nvfp5"), Error);
}

TEST(Policy, CoverageCountsEveryParameterOnce) {
  auto m = model();
  const auto rows = coverage(m, preset("nvfp4-mlp-only"));
  std::int64_t in_rows = 0, in_model = 0;
  for (const CoverageRow& r : rows) {
    in_rows += r.parameters;
    EXPECT_EQ(r.bytes_before, 2 * r.parameters);
    EXPECT_EQ(r.bytes_after == r.bytes_before, !r.quantized);
    if (r.kind == "gate_up") {
      EXPECT_EQ(r.tensors, 6);
      EXPECT_EQ(r.parameters, 6 * 96 * 64);
      EXPECT_EQ(r.bytes_after, 6 * (96 * 64 / 2 + 96 * 64 / 16 + 8));
    }
  }
  for (const models::Parameter* p : models::parameters(m)) in_model += p->value.numel();
  EXPECT_EQ(in_rows, in_model);
  EXPECT_THAT(coverage_table(rows), HasSubstr("BF16: attention kept"));
}

}  // namespace
}  // namespace qad::quantize
