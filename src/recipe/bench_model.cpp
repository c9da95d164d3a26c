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

}  // namespace

std::vector<std::string> bench_shapes() {
  std::vector<std::string> names;
  for (const Shape& s : kShapes) names.emplace_back(s.name);
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
    p->value = shape.size() > 1                 ? at::randn(shape, options).mul_(0.02)
               : is_bias(p->parts.front().name) ? at::zeros(shape, options)
                                                : at::ones(shape, options);
  }
  return model;
}

}  // namespace qad::recipe
