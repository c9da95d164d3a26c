// config.json of NVIDIA's published hybrids, with the keys that say what a model is.
#pragma once

#include "core/json.h"

namespace qad::published {

// Nemotron Nano 9B v2, Nemotron Nano 12B v2, Nemotron 3 Nano 30B-A3B.
inline constexpr const char* kNano9B = R"({
  "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
  "num_hidden_layers": 56, "hidden_size": 4480, "intermediate_size": 15680,
  "num_attention_heads": 40, "num_key_value_heads": 8, "mamba_num_heads": 128,
  "mamba_head_dim": 80})";
inline constexpr const char* kNano12B = R"({
  "hybrid_override_pattern": "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-",
  "num_hidden_layers": 62, "hidden_size": 5120, "intermediate_size": 20480,
  "num_attention_heads": 40, "num_key_value_heads": 8, "mamba_num_heads": 128,
  "mamba_head_dim": 80})";
inline constexpr const char* kNano30B = R"({
  "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
  "num_hidden_layers": 52, "hidden_size": 2688, "intermediate_size": 1856,
  "num_attention_heads": 32, "num_key_value_heads": 2, "mamba_num_heads": 64, "mamba_head_dim": 64,
  "n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 1,
  "moe_shared_expert_intermediate_size": 3712, "moe_intermediate_size": 1856, "n_group": 1,
  "topk_group": 1, "norm_topk_prob": true, "routed_scaling_factor": 2.5})";

// What they have in common, and one of the above.
inline Json config(const char* sizes) {
  Json all = parse_json(R"({
    "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "vocab_size": 131072,
    "max_position_embeddings": 131072, "tie_word_embeddings": false, "head_dim": 128,
    "n_groups": 8, "ssm_state_size": 128, "conv_kernel": 4, "use_conv_bias": true,
    "chunk_size": 128, "expand": 2, "layer_norm_epsilon": 1e-5, "mlp_hidden_act": "relu2",
    "mamba_hidden_act": "silu", "use_bias": false, "mlp_bias": false, "attention_bias": false,
    "mamba_proj_bias": false, "residual_in_fp32": false, "time_step_min": 0.001,
    "time_step_max": 0.1, "time_step_floor": 1e-4, "bos_token_id": 1, "eos_token_id": 2})",
                        "published config");
  all.merge_patch(parse_json(sizes, "published sizes"));
  return all;
}

}  // namespace qad::published
