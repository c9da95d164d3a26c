// Qwen3-MoE: a Qwen3 whose layers, but for those that config.json names, have routed experts with a
// gate instead of one MLP.
#include <algorithm>

#include "core/error.h"
#include "models/config_values.h"

namespace qad::models {
namespace {

std::vector<std::int64_t> dense_layers(const Json& config) {
  const Json* list = find(config, "mlp_only_layers");
  if (!list) return {};
  check(list->is_array() &&
            std::all_of(list->begin(), list->end(),
                        [](const Json& layer) { return layer.is_number_integer() && layer >= 0; }),
        kParseConfig, "config.json: mlp_only_layers: expected a list of layers, found {}",
        list->dump());
  return list->get<std::vector<std::int64_t>>();
}

}  // namespace

void parse_qwen3_moe(const Json& config, ModelConfig& model) {
  const char* key = find(config, "num_experts") ? "num_experts" : "num_local_experts";
  ExpertsConfig c;
  c.experts = size(config, key);
  c.chosen = size(config, "num_experts_per_tok");
  c.normalized = boolean_or(config, "norm_topk_prob", false);
  c.width = size(config, "moe_intermediate_size");
  c.scores = Scores::softmax;
  const std::int64_t every = size_or(config, "decoder_sparse_step", 1);
  const std::vector<std::int64_t> dense = dense_layers(config);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const auto number = static_cast<std::int64_t>(i);
    if ((number + 1) % every != 0 || std::ranges::find(dense, number) != dense.end()) continue;
    check_experts(c, i, key);
    model.layers[i].mlp.reset();
    model.layers[i].experts = c;
  }
}

}  // namespace qad::models
