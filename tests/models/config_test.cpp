// What a config.json may say, and what must be refused.
#include "models/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "models/model.h"

namespace qad::models {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json llama() {
  return Json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 256,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "eos_token_id": 2})");
}

ModelConfig parse(const char* patch, const Json& generation = {}) {
  Json config = llama();
  config.merge_patch(Json::parse(patch));  // null deletes a key
  return parse_config(config, generation);
}

TEST(Config, Defaults) {
  const ModelConfig c = parse("{}");
  ASSERT_EQ(c.layers.size(), 2u);
  EXPECT_EQ(c.layers[1].attention->head_dim, 16);
  EXPECT_EQ(c.layers[1].attention->kv_heads, 2);
  EXPECT_FALSE(c.tied);
  EXPECT_EQ(c.rope.kind, Rope::Kind::plain);
  EXPECT_EQ(c.rope.theta, 10000);
  EXPECT_THAT(c.eos, ElementsAre(2));
  EXPECT_EQ(parse(R"({"num_key_value_heads": null})").layers[0].attention->kv_heads, 4);
}

TEST(Config, RopeIsFoundWhereverItStands) {
  EXPECT_EQ(parse(R"({"rope_theta": 5e5})").rope.theta, 5e5);
  EXPECT_EQ(parse(R"({"rope_parameters": {"rope_type": "default", "rope_theta": 7}})").rope.theta,
            7);
  const Rope old =
      parse(R"({"rope_theta": 9, "rope_scaling": {"type": "linear", "factor": 4}})").rope;
  EXPECT_EQ(old.kind, Rope::Kind::linear);
  EXPECT_EQ(old.factor, 4);
  EXPECT_EQ(old.theta, 9);
  const Rope scaled = parse(R"({"rope_scaling": {"rope_type": "llama3", "factor": 8,
      "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 64}})")
                          .rope;
  EXPECT_EQ(scaled.kind, Rope::Kind::llama3);
  EXPECT_EQ(scaled.original_max_position, 64);
}

TEST(Config, FamiliesDifferInBiasesAndNorms) {
  const auto attention = [](const char* patch) { return *parse(patch).layers[0].attention; };
  EXPECT_FALSE(attention("{}").qkv_bias);
  EXPECT_TRUE(attention(R"({"attention_bias": true})").output_bias);
  const AttentionConfig qwen2 = attention(R"({"architectures": ["Qwen2ForCausalLM"]})");
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.output_bias);
  const AttentionConfig qwen3 = attention(R"({"architectures": ["Qwen3ForCausalLM"]})");
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_EQ(parse(R"({"architectures": null})").architecture, "LlamaForCausalLM");
}

TEST(Config, Qwen3MoeHasExpertsWhereItSaysSo) {
  const std::string moe =
      R"("architectures": ["Qwen3MoeForCausalLM"], "moe_intermediate_size": 24,
         "num_experts_per_tok": 2, "num_hidden_layers": 5)";
  const auto with = [&](const std::string& more) {
    return parse(("{" + moe + more + "}").c_str());
  };
  const ModelConfig c =
      with(R"(, "num_experts": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3])");
  for (const std::size_t i : {0, 2, 3, 4}) {
    EXPECT_EQ(c.layers[i].mlp->width, 96) << i;
    EXPECT_FALSE(c.layers[i].experts) << i;
  }
  EXPECT_FALSE(c.layers[1].mlp);
  const ExpertsConfig& e = *c.layers[1].experts;
  EXPECT_EQ(e.experts, 6);
  EXPECT_EQ(e.chosen, 2);
  EXPECT_EQ(e.width, 24);
  EXPECT_EQ(e.shared_width, 0);
  EXPECT_EQ(e.scores, Scores::softmax);
  EXPECT_FALSE(e.normalized);
  EXPECT_TRUE(c.layers[1].attention->qk_norm);
  EXPECT_EQ(c.layers[1].attention->head_dim, 16);
  EXPECT_TRUE(
      with(R"(, "num_local_experts": 4, "norm_topk_prob": true)").layers[0].experts->normalized);
  const auto error = [&](const std::string& more) {
    try {
      with(more);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  EXPECT_THAT(error(""), HasSubstr("num_local_experts"));
  EXPECT_THAT(error(R"(, "num_experts": 1)"),
              HasSubstr("layer 0 (experts): expected at most the 1 experts there are, found 2"));
  EXPECT_THAT(error(R"(, "num_experts": 4, "mlp_only_layers": [-1])"),
              HasSubstr("mlp_only_layers"));
}

TEST(Config, GenerationConfigOverridesEos) {
  EXPECT_THAT(parse(R"({"eos_token_id": [3, 4]})").eos, ElementsAre(3, 4));
  EXPECT_THAT(parse("{}", Json::parse(R"({"eos_token_id": [5, 6]})")).eos, ElementsAre(5, 6));
  EXPECT_THAT(parse("{}", Json::parse(R"({"eos_token_id": null})")).eos, ElementsAre(2));
}

TEST(Config, OddGenerationConfigIsAnErrorThatNamesIt) {
  for (const char* text : {"5", R"({"eos_token_id": []})", R"({"eos_token_id": {}})"}) {
    try {
      parse("{}", Json::parse(text));
      FAIL() << text;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("generation_config.json: ")) << text;
    }
  }
}

// The largest sizes that are accepted: what is counted from them must fit.
TEST(Config, LargestModelCanBeCounted) {
  const ModelConfig c = parse(R"({"hidden_size": 1048576, "vocab_size": 16777216,
      "intermediate_size": 1048576, "num_hidden_layers": 10000, "num_key_value_heads": 4})");
  const std::int64_t h = 1 << 20, layer = 7 * h * h + 2 * h;
  EXPECT_EQ(parameter_count(c), 2 * (std::int64_t{1} << 24) * h + h + 10'000 * layer);
}

TEST(Config, WhatWouldChangeTheFunctionIsRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"architectures": ["GPT2LMHeadModel"]})", "GPT2LMHeadModel"},
      {R"({"hidden_act": "gelu"})", "hidden_act: only silu is supported, found gelu"},
      {R"({"rope_scaling": {"rope_type": "longrope", "factor": 2}})", "found \"longrope\""},
      {R"({"rope_scaling": {"type": "dynamic", "factor": 2}})", "found \"dynamic\""},
      {R"({"rope_scaling": {"type": "linear"}})", "expected a factor"},
      {R"({"rope_parameters": {"full_attention": {"rope_theta": 1}}})", "full_attention"},
      {R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor: only 1"},
      {R"({"use_sliding_window": true, "sliding_window": 128})", "sliding_window: only full"},
      {R"({"architectures": ["MistralForCausalLM"], "max_position_embeddings": 8192})",
       "found 4096 by default"},
      {R"({"layer_types": ["full_attention", "sliding_attention"]})", "sliding_attention"},
      {R"({"hidden_size": null})", "hidden_size: expected a number, found none"},
      {R"({"hidden_size": "64"})", "hidden_size: expected a whole number"},
      {R"({"hidden_size": -1})", "hidden_size: expected 1 to"},
      {R"({"hidden_size": 18446744073709551615})", "hidden_size: expected 1 to"},
      {R"({"num_key_value_heads": 3})", "expected a multiple of num_key_value_heads 3"},
      {R"({"num_attention_heads": 6})", "expected a multiple of num_attention_heads 6"},
      {R"({"head_dim": 15})", "head_dim: rotary embedding needs an even number"},
      {R"({"eos_token_id": "2"})", "eos_token_id"},
      {R"({"eos_token_id": []})", "eos_token_id: expected a token id or a list of them, found []"},
      {R"({"bos_token_id": []})", "bos_token_id: expected a token id or a list of them, found []"},
      {R"({"bos_token_id": {"id": 1}})", "bos_token_id"},
      {R"({"bos_token_id": [1, "2"]})", "bos_token_id"},
      {R"({"bos_token_id": -1})", "found -1"},
      {R"({"bos_token_id": 18446744073709551615})", "found 18446744073709551615"},
      {R"({"tie_word_embeddings": 1})", "tie_word_embeddings: expected true or false"},
      {R"({"architectures": 5})", "architectures: expected a list of names, found 5"},
      {R"({"architectures": [5]})", "architectures: expected a list of names, found [5]"},
      {R"({"model_type": 5})", "model_type: expected a string, found 5"},
      {R"({"hidden_act": ["silu"]})", "hidden_act: expected a string"},
      {R"({"layer_types": 5})", "layer_types: expected a list, found 5"},
      {R"({"layer_types": [5]})", "layer_types: only \"full_attention\" is supported, found 5"},
      {R"({"rope_scaling": "linear"})", "rope_scaling: expected an object, found \"linear\""},
      {R"({"rope_scaling": {"type": 5}})", "type: expected a string, found 5"},
      {R"({"rope_scaling": {"type": "linear", "factor": [4]}})", "factor: expected a number"},
      {R"({"rope_theta": "1e4"})", "rope_theta: expected a number, found \"1e4\""},
      {R"({"rope_theta": 0})", "rope_theta: expected a positive number"},
      {R"({"rms_norm_eps": "1e-5"})", "rms_norm_eps: expected a number, found \"1e-5\""},
      {R"({"rms_norm_eps": 0})", "rms_norm_eps: expected a positive number, found 0"},
      {R"({"rms_norm_eps": -1e-5})", "rms_norm_eps: expected a positive number"},
      {R"({"rms_norm_eps": 1})", "rms_norm_eps: expected a number below 1, found 1"},
      {R"({"num_attention_heads": 0})", "num_attention_heads: expected 1 to"},
      {R"({"num_key_value_heads": 0})", "num_key_value_heads: expected 1 to"},
      {R"({"num_hidden_layers": 0})", "num_hidden_layers: expected 1 to"},
      {R"({"num_hidden_layers": 2000000000})", "num_hidden_layers: expected 1 to"},
      {R"({"head_dim": 0})", "head_dim: expected 1 to"},
      {R"({"hidden_size": 64.5})", "hidden_size: expected a whole number, found 64.5"},
      {R"({"hidden_size": 2147483648})", "hidden_size: expected 1 to"},
      {R"({"vocab_size": [100]})", "vocab_size: expected a whole number, found [100]"},
      {R"({"intermediate_size": 9223372036854775807})", "intermediate_size: expected 1 to"},
      {R"({"head_dim": 1048576})", "num_attention_heads: expected at most 1048576 rows"},
  };
  for (const auto& [patch, message] : cases) {
    try {
      parse(patch);
      FAIL() << patch;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr(message)) << patch;
    }
  }
}

}  // namespace
}  // namespace qad::models
