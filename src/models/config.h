// What a decoder is made of, read from a Hugging Face config.json. Llama, Qwen2, Qwen3 (dense and
// with experts) and the hybrids of Nemotron-H are settings of one description (design decision 5);
// an unknown architecture, rope type or activation is an Error naming it.
#pragma once

#include <cstdint>
#include <limits>
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
  bool rotary = true;    // false: order comes from other layers (Nemotron-H)
};

// Mamba-2 (Dao and Gu 2024, arXiv 2405.21060): head h of the state space model reads B and C of
// group h / (heads / groups). `chunk_size` is not read: it changes speed, not the function.
struct MambaConfig {
  std::int64_t heads = 0, head_dim = 0, groups = 1, state = 0;
  std::int64_t kernel = 4;  // taps of the causal convolution
  bool conv_bias = true, projection_bias = false;
  // Limits of the time step after softplus.
  double least_step = 0, most_step = std::numeric_limits<double>::infinity();

  std::int64_t inner() const { return heads * head_dim; }
  std::int64_t conv_channels() const { return inner() + 2 * groups * state; }  // x, B, C
};

enum class Activation {
  swiglu,  // silu(gate) * up
  relu2,   // max(up, 0)^2; there is no gate
};

struct MlpConfig {
  std::int64_t width = 0;
  bool bias = false;
  Activation activation = Activation::swiglu;
};

// How a router's scores come from its logits.
enum class Scores {
  sigmoid,  // each by itself; a correction has a say in the choice (DeepSeek-V3, Nemotron 3)
  softmax,  // over all experts (Qwen3-MoE)
};

// Routed experts after DeepSeek-V3 (arXiv 2412.19437, 2.1.2), each a feed-forward of `width`, and a
// shared one that every token passes.
struct ExpertsConfig {
  std::int64_t experts = 0, chosen = 0;        // n_routed_experts, num_experts_per_tok
  std::int64_t groups = 1, chosen_groups = 1;  // n_group, topk_group
  bool normalized = true;                      // norm_topk_prob
  double scale = 1;                            // routed_scaling_factor
  std::int64_t width = 0, shared_width = 0;    // 0: no shared expert
  bool bias = false;                           // of the shared one; the others have none
  Activation activation = Activation::swiglu;
  Scores scores = Scores::sigmoid;
};

// A layer is a mixer (attention or Mamba) and a feed-forward (MLP or experts), each optional, each
// with its own sizes.
struct LayerConfig {
  std::optional<AttentionConfig> attention;
  std::optional<MlpConfig> mlp;
  std::optional<MambaConfig> mamba = {};
  std::optional<ExpertsConfig> experts = {};
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
