// The shapes are those of published models, whose speed others have measured, too.
#include "recipe/bench_model.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include "checkpoint/checkpoint.h"
#include "core/error.h"

namespace qad::recipe {
namespace {

struct Shape {
  const char *name, *model_type, *architecture;
  std::int64_t hidden, width, layers, heads, kv_heads, vocabulary;
  bool tied;
};
constexpr Shape kShapes[] = {
    {"smollm2-135m", "llama", "LlamaForCausalLM", 576, 1536, 30, 9, 3, 49152, true},
    {"qwen2-0.5b", "qwen2", "Qwen2ForCausalLM", 896, 4864, 24, 14, 2, 151936, true},
    {"qwen2-1.5b", "qwen2", "Qwen2ForCausalLM", 1536, 8960, 28, 12, 2, 151936, true},
    {"qwen2-7b", "qwen2", "Qwen2ForCausalLM", 3584, 18944, 28, 28, 4, 152064, false},
    {"llama3-8b", "llama", "LlamaForCausalLM", 4096, 14336, 32, 32, 8, 128256, false},
};

// A hybrid of Nemotron 3 Nano's kind that one card trains: 0.9 B parameters.
constexpr const char* kHybrid = "nemotron-h-0.9b";
Json hybrid_config() {
  return {{"architectures", {"NemotronHForCausalLM"}},
          {"model_type", "nemotron_h"},
          {"hybrid_override_pattern", "MEMEM*EMEMEM*E"},
          {"hidden_size", 1024},
          {"intermediate_size", 704},
          {"num_attention_heads", 16},
          {"num_key_value_heads", 2},
          {"head_dim", 128},
          {"mamba_num_heads", 32},
          {"mamba_head_dim", 64},
          {"n_groups", 8},
          {"ssm_state_size", 128},
          {"conv_kernel", 4},
          {"n_routed_experts", 64},
          {"num_experts_per_tok", 6},
          {"n_shared_experts", 1},
          {"moe_intermediate_size", 704},
          {"moe_shared_expert_intermediate_size", 1408},
          {"n_group", 1},
          {"topk_group", 1},
          {"norm_topk_prob", true},
          {"routed_scaling_factor", 2.5},
          {"vocab_size", 131072},
          {"max_position_embeddings", 131072},
          {"tie_word_embeddings", false}};
}

}  // namespace

std::vector<std::string> bench_shapes() {
  std::vector<std::string> names;
  for (const Shape& s : kShapes) names.emplace_back(s.name);
  names.emplace_back(kHybrid);
  return names;
}

models::ModelConfig bench_config(const std::string& model) {
  for (const Shape& s : kShapes)
    if (model == s.name)
      return models::parse_config({{"architectures", {s.architecture}},
                                   {"model_type", s.model_type},
                                   {"hidden_act", "silu"},
                                   {"hidden_size", s.hidden},
                                   {"intermediate_size", s.width},
                                   {"num_hidden_layers", s.layers},
                                   {"num_attention_heads", s.heads},
                                   {"num_key_value_heads", s.kv_heads},
                                   {"vocab_size", s.vocabulary},
                                   {"rms_norm_eps", 1e-6},
                                   {"rope_theta", 1e4},
                                   {"max_position_embeddings", 131072},
                                   {"tie_word_embeddings", s.tied}},
                                  Json());
  if (model == kHybrid) return models::parse_config(hybrid_config(), Json());
  check(fs::exists(model), "bench", "{}: expected a checkpoint or one of {}", model,
        fmt::join(bench_shapes(), ", "));
  const checkpoint::Checkpoint c = checkpoint::open(model);
  return models::parse_config(c.config, c.generation_config);
}

models::Model random_model(const models::ModelConfig& config, const models::Placement& placement) {
  models::Model model = models::build(config);
  model.placement = placement;
  const auto options = at::TensorOptions().dtype(placement.type).device(placement.device);
  const auto is_bias = [](const std::string& name) { return name.ends_with(".bias"); };
  for (models::Parameter* p : models::parameters(model)) {
    const auto shape = p->value.sizes().vec();
    const bool zeros = p->constant || is_bias(p->parts.front().name);
    p->value = shape.size() > 1 ? at::randn(shape, options).mul_(0.02)
               : zeros ? at::zeros(shape, p->constant ? options.dtype(at::kFloat) : options)
                       : at::ones(shape, options);
  }
  return model;
}

}  // namespace qad::recipe
