// What a nemotron_h's config.json may say, and what must be refused. Sizes and patterns are those
// of NVIDIA's published models.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "models/model.h"
#include "published.h"

namespace qad::models {
namespace {

using ::testing::HasSubstr;

ModelConfig parse(const Json& config) {
  return parse_config(config, {});
}

ModelConfig patched(Json config, const char* patch) {
  config.merge_patch(parse_json(patch, "patch"));  // null deletes a key
  return parse(config);
}

// A letter a layer, as the pattern has them.
std::string letters(const ModelConfig& c) {
  std::string out;
  for (const LayerConfig& l : c.layers)
    out += l.mamba ? 'M' : l.attention ? '*' : l.mlp ? '-' : l.experts ? 'E' : '?';
  return out;
}

TEST(NemotronH, PatternsOfPublishedModels) {
  for (const auto& [name, layers] :
       {std::pair(published::kNano9B, 56), {published::kNano12B, 62}, {published::kNano30B, 52}}) {
    const Json config = published::config(name);
    const ModelConfig c = parse(config);
    EXPECT_EQ(c.layers.size(), static_cast<std::size_t>(layers));
    EXPECT_EQ(letters(c), config["hybrid_override_pattern"]);
    EXPECT_EQ(c.norm_eps, 1e-5);
  }
}

// Their published sizes: 8.89, 12.31 and 31.6 billion.
TEST(NemotronH, CountsParameters) {
  EXPECT_NEAR(parameter_count(parse(published::config(published::kNano9B))), 8.888e9, 1e6);
  EXPECT_NEAR(parameter_count(parse(published::config(published::kNano12B))), 12.31e9, 5e6);
  EXPECT_NEAR(parameter_count(parse(published::config(published::kNano30B))), 31.578e9, 1e6);
}

TEST(NemotronH, SizesOfItsLayers) {
  const ModelConfig c = parse(published::config(published::kNano30B));
  const MambaConfig& m = *c.layers[0].mamba;
  EXPECT_EQ(m.inner(), 4096);
  EXPECT_EQ(m.conv_channels(), 6144);
  EXPECT_EQ(m.kernel, 4);
  EXPECT_TRUE(m.conv_bias);
  EXPECT_FALSE(m.projection_bias);
  EXPECT_EQ(m.least_step, 0);
  EXPECT_EQ(m.most_step, std::numeric_limits<double>::infinity());
  const AttentionConfig& a = *c.layers[5].attention;
  EXPECT_EQ(a.heads, 32);
  EXPECT_EQ(a.kv_heads, 2);
  EXPECT_EQ(a.head_dim, 128);
  EXPECT_FALSE(a.rotary || a.qkv_bias || a.output_bias || a.qk_norm);
  const ExpertsConfig& e = *c.layers[1].experts;
  EXPECT_EQ(e.experts, 128);
  EXPECT_EQ(e.chosen, 6);
  EXPECT_EQ(e.width, 1856);
  EXPECT_EQ(e.shared_width, 3712);
  EXPECT_EQ(e.scale, 2.5);
  EXPECT_TRUE(e.normalized);
  EXPECT_EQ(e.activation, Activation::relu2);
  const MlpConfig mlp = *parse(published::config(published::kNano9B)).layers[1].mlp;
  EXPECT_EQ(mlp.width, 15680);
  EXPECT_EQ(mlp.activation, Activation::relu2);
  EXPECT_FALSE(mlp.bias);
}

// Transformers 5 writes a list with its own words, and leaves num_hidden_layers out.
TEST(NemotronH, OtherWritersSpellItOtherwise) {
  const Json config = published::config(published::kNano9B);
  EXPECT_EQ(letters(patched(config, R"({"hybrid_override_pattern": null, "num_hidden_layers": null,
      "layers_block_type": ["linear_attention", "mlp", "full_attention", "mamba", "attention"]})")),
            "M-*M*");
  const MambaConfig m =
      *patched(config, R"({"n_groups": null, "mamba_n_groups": 4, "conv_kernel": null,
      "mamba_d_conv": 3, "use_conv_bias": null, "mamba_conv_bias": false, "head_dim": null,
      "attention_head_dim": 64, "use_bias": true, "mamba_proj_bias": null})")
           .layers[0]
           .mamba;
  EXPECT_EQ(m.groups, 4);
  EXPECT_EQ(m.kernel, 3);
  EXPECT_FALSE(m.conv_bias);
  EXPECT_TRUE(m.projection_bias);
}

TEST(NemotronH, StepLimitsAsWritersSpellInfinity) {
  const Json config = published::config(published::kNano9B);
  for (const char* patch :
       {R"({"time_step_limit": [0.001, Infinity]})", R"({"mamba_dt_limit": [0.001, Infinity]})",
        R"({"time_step_limit": [0.001, {"__float__": "Infinity"}]})"}) {
    const MambaConfig m = *patched(config, patch).layers[0].mamba;
    EXPECT_EQ(m.least_step, 0.001) << patch;
    EXPECT_EQ(m.most_step, std::numeric_limits<double>::infinity()) << patch;
  }
  EXPECT_EQ(patched(config, R"({"time_step_limit": [0, 0.5]})").layers[0].mamba->most_step, 0.5);
}

TEST(NemotronH, WhatWouldChangeTheFunctionIsRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"num_hidden_layers": 53})",
       "expected a layer for each of num_hidden_layers 53, found 52"},
      {R"({"hybrid_override_pattern": "M-x"})", "layer 2: expected M, *, - or E, found 'x'"},
      {R"({"hybrid_override_pattern": null})",
       "hybrid_override_pattern or layers_block_type: expected 1 to 10000 layers, found 0"},
      {R"({"layers_block_type": ["mamba"]})", "expected the same layers, found MEMEM*EM"},
      {R"({"hybrid_override_pattern": 5})", "hybrid_override_pattern: expected a string"},
      {R"({"hybrid_override_pattern": null, "layers_block_type": ["mamba", "rnn"]})",
       "layer 1: expected mamba, attention, mlp or moe, found \"rnn\""},
      {R"({"hybrid_override_pattern": null, "layers_block_type": 5})", "found 5"},
      {R"({"n_groups": 7})", "layer 0 (Mamba): expected a multiple of n_groups 7, found 64"},
      {R"({"mamba_head_dim": 100000})", "layer 0 (Mamba): expected at most 1048576 channels"},
      {R"({"mamba_num_heads": null})", "mamba_num_heads: expected a number, found none"},
      {R"({"mamba_hidden_act": "gelu"})", "mamba_hidden_act: only silu is supported, found gelu"},
      {R"({"mamba_proj_bias": true})", "mamba_proj_bias: layer 0 (Mamba)"},
      {R"({"time_step_limit": [0.1]})", "time_step_limit: expected two rising limits"},
      {R"({"time_step_limit": [0.1, 0.1]})", "time_step_limit: expected two rising limits"},
      {R"({"time_step_limit": [-1, 1]})", "time_step_limit: expected two rising limits"},
      {R"({"time_step_limit": "Infinity"})", "time_step_limit: expected two rising limits"},
      {R"({"num_key_value_heads": 5})",
       "layer 5 (attention): expected a multiple of num_key_value_heads 5, found 32"},
      {R"({"head_dim": null})", "head_dim: expected a number, found none"},
      {R"({"attention_bias": true})", "attention_bias: only false is supported"},
      {R"({"mlp_hidden_act": "silu"})", "mlp_hidden_act: only relu2 is supported, found silu"},
      {R"({"residual_in_fp32": true})", "residual_in_fp32: only false is supported"},
      {R"({"sliding_window": 128})", "sliding_window: only full attention is supported"},
      {R"({"layer_norm_epsilon": 2})", "layer_norm_epsilon: expected a number below 1, found 2"},
      {R"({"moe_latent_size": 512})", "moe_latent_size: layer 1 (experts)"},
      {R"({"n_group": 3})", "layer 1 (experts): expected a multiple of n_group 3, found 128"},
      {R"({"n_group": 128})", "layer 1 (experts): expected groups of two experts or more"},
      {R"({"topk_group": 2})", "layer 1 (experts): expected at most n_group 1, found 2"},
      {R"({"num_experts_per_tok": 129})", "layer 1 (experts): expected at most the 128 experts"},
      {R"({"n_shared_experts": 2})", "n_shared_experts: expected 0 to 1, found 2"},
  };
  for (const auto& [patch, message] : cases) {
    try {
      patched(published::config(published::kNano30B), patch);
      FAIL() << patch;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr(message)) << patch;
    }
  }
}

}  // namespace
}  // namespace qad::models
