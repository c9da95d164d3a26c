// Nemotron-H (arXiv 2504.03624): layers of one mixer or one feed-forward each, in the order of a
// pattern, attention without positions. Released files have hybrid_override_pattern, Transformers 5
// writes layers_block_type; older writers have other names for some of Mamba's sizes.
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "models/config_values.h"

namespace qad::models {
namespace {

constexpr std::string_view kOperation = kParseConfig;

// Of two names of one key the one that is there; the first if none is.
const char* either(const Json& config, const char* key, const char* alias) {
  return !find(config, key) && find(config, alias) ? alias : key;
}

char letter_of(const Json& word, const char* key, std::size_t layer) {
  const auto is = [&](std::string_view name) { return word == name; };
  if (is("mamba") || is("linear_attention")) return 'M';
  if (is("attention") || is("full_attention")) return '*';
  if (is("mlp")) return '-';
  if (is("moe")) return 'E';
  fail(kOperation, "config.json: {}: layer {}: expected mamba, attention, mlp or moe, found {}",
       key, layer, word.dump());
}

// Empty: there is no such key.
std::string pattern_of_letters(const Json& config, const char* key) {
  const std::string pattern = text_or(config, key, "");
  const std::size_t odd = pattern.find_first_not_of("M*-E");
  check(odd == std::string::npos, kOperation,
        "config.json: {}: layer {}: expected M, *, - or E, found {:?}", key, odd,
        odd == std::string::npos ? ' ' : pattern[odd]);
  return pattern;
}
std::string pattern_of_words(const Json& config, const char* key) {
  const Json* list = find(config, key);
  if (!list) return {};
  check(list->is_array(), kOperation, "config.json: {}: expected a list, found {}", key,
        list->dump());
  std::string pattern;
  for (const Json& word : *list) pattern += letter_of(word, key, pattern.size());
  return pattern;
}

// A letter a layer: M, *, - or E.
std::string pattern_of(const Json& config) {
  const char *letters = "hybrid_override_pattern",
             *words = either(config, "layers_block_type", "layer_types");
  const std::string pattern = pattern_of_letters(config, letters);
  const std::string spelt_out = pattern_of_words(config, words);
  check(pattern.empty() || spelt_out.empty() || pattern == spelt_out, kOperation,
        "config.json: {} and {}: expected the same layers, found {} and {}", letters, words,
        pattern, spelt_out);
  const std::string& layers = pattern.empty() ? spelt_out : pattern;
  const char* from = pattern.empty() ? words : letters;
  const auto found = static_cast<std::int64_t>(layers.size());
  check(found >= 1 && found <= kMostLayers, kOperation,
        "config.json: hybrid_override_pattern or layers_block_type: expected 1 to {} layers, found "
        "{}",
        kMostLayers, found);
  const std::int64_t expected = size_or(config, "num_hidden_layers", found, kMostLayers);
  check(found == expected, kOperation,
        "config.json: {}: expected a layer for each of num_hidden_layers {}, found {}: {}", from,
        expected, found, layers);
  return layers;
}

// [least, most], the latter as a number, Infinity or Transformers' {"__float__": "Infinity"}.
void parse_step_limits(const Json& config, MambaConfig& mamba) {
  const char* key = either(config, "time_step_limit", "mamba_dt_limit");
  const Json* limits = find(config, key);
  if (!limits) return;
  const auto bound = [&](std::size_t i) {
    const Json& value = limits->is_array() && limits->size() == 2 ? (*limits)[i] : Json();
    const Json& word =
        value.is_object() && value.contains("__float__") ? value["__float__"] : value;
    if (word == "Infinity") return std::numeric_limits<double>::infinity();
    return word.is_number() ? word.get<double>() : std::nan("");
  };
  mamba.least_step = bound(0);
  mamba.most_step = bound(1);
  check(mamba.least_step >= 0 && std::isfinite(mamba.least_step) &&
            mamba.most_step > mamba.least_step,
        kOperation, "config.json: {}: expected two rising limits from 0 on, found {}", key,
        limits->dump());
}

void only(const Json& config, const char* key, const char* supported) {
  const std::string found = text_or(config, key, supported);
  check(found == supported, kOperation, "config.json: {}: only {} is supported, found {}", key,
        supported, found);
}
void only_without(const Json& config, const char* key) {
  check(!boolean_or(config, key, false), kOperation,
        "config.json: {}: only false is supported, found true", key);
}

// What a layer of this kind is; `layer`, the first of them, is who an error speaks of.
MambaConfig parse_mamba(const Json& config, std::size_t layer) {
  MambaConfig c;
  c.heads = size(config, "mamba_num_heads");
  c.head_dim = size(config, "mamba_head_dim");
  c.groups = size(config, either(config, "n_groups", "mamba_n_groups"));
  c.state = size(config, "ssm_state_size");
  c.kernel = size(config, either(config, "conv_kernel", "mamba_d_conv"), 64);
  c.conv_bias = boolean_or(config, either(config, "use_conv_bias", "mamba_conv_bias"), true);
  c.projection_bias = boolean_or(config, "use_bias", false);
  check(boolean_or(config, "mamba_proj_bias", c.projection_bias) == c.projection_bias, kOperation,
        "config.json: mamba_proj_bias: layer {} (Mamba): expected the value of use_bias, {}", layer,
        c.projection_bias);
  parse_step_limits(config, c);
  only(config, "mamba_hidden_act", "silu");
  check(c.heads % c.groups == 0, kOperation,
        "config.json: mamba_num_heads: layer {} (Mamba): expected a multiple of n_groups {}, found "
        "{}",
        layer, c.groups, c.heads);
  check(c.inner() <= kMostWidth && c.groups * c.state <= kMostWidth, kOperation,
        "config.json: layer {} (Mamba): expected at most {} channels, found {} heads of {} and {} "
        "groups of {}",
        layer, kMostWidth, c.heads, c.head_dim, c.groups, c.state);
  return c;
}

AttentionConfig parse_attention(const Json& config, std::size_t layer) {
  AttentionConfig c;
  c.rotary = false;
  c.heads = size(config, "num_attention_heads");
  c.kv_heads = size_or(config, "num_key_value_heads", c.heads);
  c.head_dim = size(config, either(config, "head_dim", "attention_head_dim"));
  only_without(config, "attention_bias");
  check(c.heads % c.kv_heads == 0, kOperation,
        "config.json: num_attention_heads: layer {} (attention): expected a multiple of "
        "num_key_value_heads {}, found {}",
        layer, c.kv_heads, c.heads);
  check(
      c.heads * c.head_dim <= kMostWidth, kOperation,
      "config.json: num_attention_heads: layer {} (attention): expected at most {} rows, found {} "
      "heads of {}",
      layer, kMostWidth, c.heads, c.head_dim);
  return c;
}

MlpConfig parse_mlp(const Json& config) {
  only(config, "mlp_hidden_act", "relu2");
  return {size(config, "intermediate_size"), boolean_or(config, "mlp_bias", false),
          Activation::relu2};
}

ExpertsConfig parse_experts(const Json& config, std::size_t layer) {
  only(config, "mlp_hidden_act", "relu2");
  check(!find(config, "moe_latent_size"), kOperation,
        "config.json: moe_latent_size: layer {} (experts): only null is supported, found {}", layer,
        config.value("moe_latent_size", Json()).dump());
  ExpertsConfig c;
  c.experts = size(config, "n_routed_experts");
  c.chosen = size(config, "num_experts_per_tok");
  c.groups = size_or(config, "n_group", 1);
  c.chosen_groups = size_or(config, "topk_group", 1);
  c.normalized = boolean_or(config, "norm_topk_prob", true);
  c.scale = number_or(config, "routed_scaling_factor", 1);
  c.width = size(config, "moe_intermediate_size");
  c.bias = boolean_or(config, "mlp_bias", false);
  c.activation = Activation::relu2;
  if (integer(config, "n_shared_experts", 0, 1) == 1)
    c.shared_width = size(config, "moe_shared_expert_intermediate_size");
  check_experts(c, layer, "n_routed_experts");
  return c;
}

}  // namespace

void check_experts(const ExpertsConfig& c, std::size_t layer, const char* key) {
  constexpr std::int64_t kMostExperts = 4096;
  check(c.experts <= kMostExperts, kOperation,
        "config.json: {}: layer {} (experts): expected at most {}, found {}", key, layer,
        kMostExperts, c.experts);
  check(c.experts % c.groups == 0, kOperation,
        "config.json: {}: layer {} (experts): expected a multiple of n_group {}, found {}", key,
        layer, c.groups, c.experts);
  // A group is known by its two best.
  check(c.groups == 1 || c.experts / c.groups >= 2, kOperation,
        "config.json: n_group: layer {} (experts): expected groups of two experts or more, found "
        "{} groups of {}",
        layer, c.groups, c.experts);
  check(c.chosen_groups <= c.groups, kOperation,
        "config.json: topk_group: layer {} (experts): expected at most n_group {}, found {}", layer,
        c.groups, c.chosen_groups);
  check(c.chosen <= c.experts / c.groups * c.chosen_groups, kOperation,
        "config.json: num_experts_per_tok: layer {} (experts): expected at most the {} experts {}, "
        "found {}",
        layer, c.experts / c.groups * c.chosen_groups,
        c.groups == 1 ? "there are" : fmt::format("of topk_group {}", c.chosen_groups), c.chosen);
  check(
      c.experts * c.width <= 16 * kMostWidth, kOperation,
      "config.json: moe_intermediate_size: layer {} (experts): expected at most {} rows, found {} "
      "experts of {}",
      layer, 16 * kMostWidth, c.experts, c.width);
}

void parse_nemotron_h(const Json& config, ModelConfig& model) {
  const char* eps = either(config, "layer_norm_epsilon", "norm_eps");
  model.norm_eps = number_or(config, eps, 1e-5);
  check(model.norm_eps < 1, kOperation, "config.json: {}: expected a number below 1, found {}", eps,
        model.norm_eps);
  only_without(config, "residual_in_fp32");
  if (const std::int64_t window =
          size_or(config, "sliding_window", model.max_positions, kMostPositions);
      window < model.max_positions)
    fail(kOperation,
         "config.json: sliding_window: only full attention is supported (null, or at least "
         "max_position_embeddings = {}), found {}",
         model.max_positions, window);

  const std::string pattern = pattern_of(config);
  model.layers.resize(pattern.size());
  // Layers of a kind are alike.
  const auto all = [&](char letter, auto&& parse, auto&& put) {
    const std::size_t first = pattern.find(letter);
    if (first == std::string::npos) return;
    const auto c = parse(first);
    for (std::size_t i = first; i < pattern.size(); ++i)
      if (pattern[i] == letter) put(model.layers[i], c);
  };
  all(
      'M', [&](std::size_t layer) { return parse_mamba(config, layer); },
      [](LayerConfig& layer, const MambaConfig& c) { layer.mamba = c; });
  all(
      '*', [&](std::size_t layer) { return parse_attention(config, layer); },
      [](LayerConfig& layer, const AttentionConfig& c) { layer.attention = c; });
  all(
      '-', [&](std::size_t) { return parse_mlp(config); },
      [](LayerConfig& layer, const MlpConfig& c) { layer.mlp = c; });
  all(
      'E', [&](std::size_t layer) { return parse_experts(config, layer); },
      [](LayerConfig& layer, const ExpertsConfig& c) { layer.experts = c; });
}

}  // namespace qad::models
