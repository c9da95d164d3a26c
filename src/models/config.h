// What a decoder is made of, read from a Hugging Face config.json. Llama, Qwen2 and Qwen3 are
// settings of one description (design decision 5); an unknown architecture, rope type or activation
// is an Error naming it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"

namespace qad::models {

// Rotary embedding over the whole head (rope.h computes with it). Scalings whose frequencies depend
// on the sequence's length (dynamic, longrope) are an Error.
struct Rope {
  enum class Kind { plain, linear, llama3, yarn } kind = Kind::plain;
  double theta = 10000;
  double factor = 1;
  std::int64_t original_max_position = 0;            // llama3 and yarn
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  double attention_factor = 1;                       // yarn: multiplies cos and sin
  bool truncate = true;                              // yarn: whole-numbered correction range
};

struct AttentionConfig {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  bool qkv_bias = false, output_bias = false;
  bool qk_norm = false;  // RMSNorm over each head of q and k (Qwen3)
};

struct MlpConfig {
  std::int64_t width = 0;  // gated SiLU
  bool bias = false;
};

// A layer is a mixer and a feed-forward, each optional, each with its own sizes.
struct LayerConfig {
  std::optional<AttentionConfig> attention;
  std::optional<MlpConfig> mlp;
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  std::string model_type;    // "llama"
  std::int64_t hidden = 0, vocabulary = 0, max_positions = 0;
  double norm_eps = 1e-6;
  bool tied = false;  // lm_head shares the embedding
  Rope rope;
  std::vector<LayerConfig> layers;
  std::vector<std::int64_t> eos;  // config.json, overridden by generation_config.json
  std::optional<std::int64_t> bos;
};

// Throws Error "[parse_config] config.json: KEY: ..." for what is missing, malformed or
// unsupported.
ModelConfig parse_config(const Json& config, const Json& generation_config);

}  // namespace qad::models
