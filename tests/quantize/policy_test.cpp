// Which matrices a policy takes, and the coverage table's sums against the shapes.
#include "quantize/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "core/error.h"
#include "models/published.h"
#include "quantize/quantize.h"

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

// The names that `policy` quantises and that the export's metadata lists as kept, of a published
// config.
struct Map {
  std::set<std::string> quantized, kept;
};
Map map_of(const char* sizes, const std::string& policy) {
  models::Model m = models::build(models::parse_config(published::config(sizes), {}));
  Map map;
  check_rules(m, preset(policy));
  const auto layers = static_cast<std::int64_t>(m.layers.size());
  for (models::Linear* l : models::linears(m)) {
    if (!decide(preset(policy), *l, layers).quantize) continue;
    l->quant = std::make_unique<models::LinearQuant>();
    for (const models::Part& part : l->weight.parts) map.quantized.insert(linear_name(part));
  }
  std::vector<at::Tensor> shapes;
  for (const models::Parameter* p : models::parameters(m)) shapes.push_back(p->value);
  checkpoint::Checkpoint source;
  source.config = Json::object();
  for (std::string& name : checkpoint::left_alone(export_model(m, shapes, source)))
    map.kept.insert(std::move(name));
  return map;
}

std::string in_layer(int layer, const char* name) {
  return fmt::format("backbone.layers.{}.mixer.{}", layer, name);
}

// The exclude list of NVIDIA-Nemotron-Nano-9B-v2-NVFP4, name by name.
TEST(Policy, Nano9BIsWhatNvidiaPublished) {
  const Map map = map_of(published::kNano9B, "nvfp4-nano-9b-v2");
  const std::vector<int> mamba{0,  2,  4,  6,  7,  9,  11, 13, 16, 18, 20, 23, 25, 27,
                               29, 32, 34, 36, 38, 41, 43, 44, 46, 48, 50, 52, 54};
  std::set<std::string> kept{"lm_head", "backbone.embeddings"};
  for (const int layer : mamba) kept.insert(in_layer(layer, "conv1d"));
  for (const int layer : {0, 54})
    for (const char* name : {"in_proj", "out_proj"}) kept.insert(in_layer(layer, name));
  for (const int layer : {1, 55})
    for (const char* name : {"up_proj", "down_proj"}) kept.insert(in_layer(layer, name));
  for (const int layer : {14, 21, 30, 39})
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"})
      kept.insert(in_layer(layer, name));
  EXPECT_EQ(map.kept, kept);
  std::set<std::string> quantized;
  for (const int layer : mamba)
    if (layer != 0 && layer != 54)
      for (const char* name : {"in_proj", "out_proj"}) quantized.insert(in_layer(layer, name));
  for (int layer = 2; layer < 55; ++layer)
    if (std::find(mamba.begin(), mamba.end(), layer) == mamba.end() && layer != 14 && layer != 21 &&
        layer != 30 && layer != 39)
      for (const char* name : {"up_proj", "down_proj"}) quantized.insert(in_layer(layer, name));
  EXPECT_EQ(map.quantized, quantized);
  EXPECT_EQ(quantized.size(), 96u);  // 25 Mamba and 23 MLP layers
}

// The exclude list of NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4, and the routers, which are no linears
// there.
TEST(Policy, Nano30BIsWhatNvidiaPublished) {
  const Map map = map_of(published::kNano30B, "nvfp4-nano-30b-a3b");
  const std::string pattern = published::config(published::kNano30B)["hybrid_override_pattern"];
  const std::set<int> kept_mamba{4, 11, 18, 25, 32, 41}, attention{5, 12, 19, 26, 33, 42};
  std::set<std::string> kept{"lm_head", "backbone.embeddings"}, quantized;
  for (int layer = 0; layer < 52; ++layer) {
    const char kind = pattern[static_cast<std::size_t>(layer)];
    ASSERT_EQ(kind == '*', attention.contains(layer));
    const auto all = [&](auto& names, auto... name) { (names.insert(in_layer(layer, name)), ...); };
    if (kind == '*') all(kept, "q_proj", "k_proj", "v_proj", "o_proj");
    if (kind == 'M') all(kept, "conv1d");
    if (kind == 'M') all(kept_mamba.contains(layer) ? kept : quantized, "in_proj", "out_proj");
    if (kind != 'E') continue;
    all(kept, "gate");
    all(quantized, "shared_experts.up_proj", "shared_experts.down_proj");
    for (int e = 0; e < 128; ++e)
      for (const char* name : {"up_proj", "down_proj"})
        quantized.insert(in_layer(layer, fmt::format("experts.{}.{}", e, name).c_str()));
  }
  EXPECT_EQ(map.kept, kept);
  EXPECT_EQ(map.quantized, quantized);
  EXPECT_EQ(quantized.size(), 17u * 2 + 23u * (128 * 2 + 2));  // 5968
}

// 19.4 GB are published, headers included; BF16 is two bytes each of 31.58 billion.
TEST(Coverage, Nano30BHasThePublishedSize) {
  const models::Model m =
      models::build(models::parse_config(published::config(published::kNano30B), Json()));
  double before = 0, after = 0;
  std::int64_t quantized = 0;
  for (const CoverageRow& row : coverage(m, preset("nvfp4-nano-30b-a3b"))) {
    before += static_cast<double>(row.bytes_before);
    after += static_cast<double>(row.bytes_after);
    quantized += row.quantized ? row.tensors : 0;
  }
  EXPECT_NEAR(after, 19.4e9, 0.02 * 19.4e9);
  EXPECT_NEAR(before, 2 * 31.578e9, 0.001e9);
  EXPECT_EQ(quantized, 5968);
}

// The language model of Nano 12B v2 VL: every linear but the head, as far as is published.
TEST(Policy, Nano12BIsEveryLinear) {
  const Map map = map_of(published::kNano12B, "nvfp4");
  EXPECT_EQ(map.quantized.size(), 28u * 2 + 28u * 2 + 6u * 4);
  EXPECT_EQ(map.kept.size(), 2u + 28u);
  EXPECT_TRUE(map.kept.contains("lm_head"));
  EXPECT_TRUE(map.kept.contains(in_layer(60, "conv1d")));
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
  // Names of another architecture, or of a model with more layers.
  EXPECT_THAT(message(preset("nvfp4-nano-9b-v2")), HasSubstr("matches no linear"));
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
