// config.json as its many writers spell it: rope parameters in three places, null for "default",
// keys that only matter with another value than usual. What would change the function and is not
// implemented is an Error.
#include "models/config.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "models/config_values.h"

namespace qad::models {
namespace {

constexpr std::string_view kOperation = kParseConfig;

// model_type and architecture.
constexpr std::pair<const char*, const char*> kArchitectures[] = {
    {"llama", "LlamaForCausalLM"},          {"mistral", "MistralForCausalLM"},
    {"qwen2", "Qwen2ForCausalLM"},          {"qwen3", "Qwen3ForCausalLM"},
    {"nemotron_h", "NemotronHForCausalLM"}, {"qwen3_moe", "Qwen3MoeForCausalLM"},
};

std::vector<std::int64_t> token_ids(const Json& json, const char* file, const char* key) {
  std::vector<std::int64_t> ids;
  const Json list = json.is_array() ? json : Json::array({json});
  const auto odd = [&](const Json& id) {
    return !id.is_number_integer() || id < 0 || id > INT32_MAX;
  };
  check(!list.empty() && std::none_of(list.begin(), list.end(), odd), kOperation,
        "{}: {}: expected a token id or a list of them, found {}", file, key, json.dump());
  for (const Json& id : list) ids.push_back(id.get<std::int64_t>());
  return ids;
}

// Older files: rope_theta and rope_scaling {type or rope_type}; 5.x: rope_parameters with both.
Rope parse_rope(const Json& config, std::int64_t max_positions) {
  Json scaling = Json::object();
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* found = find(config, key);
    if (!found) continue;
    check(found->is_object(), kOperation, "config.json: {}: expected an object, found {}", key,
          found->dump());
    for (const auto& [name, value] : found->items())
      check(!value.is_object(), kOperation,
            "config.json: {}.{}: one rope for all layers is supported, found one a layer type", key,
            name);
    scaling = *found;
    break;
  }
  for (const Json& where : {scaling, config}) {
    const double factor = number_or(where, "partial_rotary_factor", 1);
    check(factor == 1, kOperation,
          "config.json: partial_rotary_factor: only 1 is supported, found {}", factor);
  }

  Rope rope;
  rope.theta = number_or(scaling, "rope_theta", number_or(config, "rope_theta", rope.theta));
  const std::string type =
      text_or(scaling, "rope_type", text_or(scaling, "type", "default").c_str());
  if (type == "default") return rope;
  if (type == "linear") {
    rope.kind = Rope::Kind::linear;
  } else if (type == "llama3") {
    rope.kind = Rope::Kind::llama3;
  } else if (type == "yarn") {
    rope.kind = Rope::Kind::yarn;
  } else {
    fail(kOperation,
         "config.json: rope_type: default, linear, llama3 and yarn are supported, found \"{}\"",
         type);
  }
  rope.original_max_position =
      size_or(scaling, "original_max_position_embeddings",
              size_or(config, "original_max_position_embeddings", max_positions, kMostPositions),
              kMostPositions);
  check(find(scaling, "factor"), kOperation, "config.json: rope_type {}: expected a factor", type);
  rope.factor = number_or(scaling, "factor", 1);
  if (rope.kind == Rope::Kind::llama3) {
    check(find(scaling, "low_freq_factor") && find(scaling, "high_freq_factor"), kOperation,
          "config.json: rope_type llama3: expected low_freq_factor and high_freq_factor");
    rope.low_freq_factor = number_or(scaling, "low_freq_factor", 1);
    rope.high_freq_factor = number_or(scaling, "high_freq_factor", 4);
    check(rope.high_freq_factor > rope.low_freq_factor, kOperation,
          "config.json: rope_type llama3: expected high_freq_factor above low_freq_factor");
  }
  if (rope.kind == Rope::Kind::yarn) {
    rope.beta_fast = number_or(scaling, "beta_fast", 32);
    rope.beta_slow = number_or(scaling, "beta_slow", 1);
    rope.truncate = boolean_or(scaling, "truncate", true);
    const auto magnitude = [&](double mscale) {
      return rope.factor <= 1 ? 1.0 : 0.1 * mscale * std::log(rope.factor) + 1.0;
    };
    const bool both = find(scaling, "mscale") && find(scaling, "mscale_all_dim");
    rope.attention_factor = number_or(scaling, "attention_factor",
                                      both ? magnitude(number_or(scaling, "mscale", 1)) /
                                                 magnitude(number_or(scaling, "mscale_all_dim", 1))
                                           : magnitude(1));
  }
  return rope;
}

// A window that never closes within max_position_embeddings is full attention.
void reject_sliding_window(const Json& config, const ModelConfig& model) {
  const bool mistral = model.architecture == "MistralForCausalLM";
  if (mistral || boolean_or(config, "use_sliding_window", false)) {
    const auto it = config.find("sliding_window");
    const bool unlimited = it != config.end() && it->is_null();
    const std::int64_t window =
        unlimited ? model.max_positions : size_or(config, "sliding_window", 4096, kMostPositions);
    check(window >= model.max_positions, kOperation,
          "config.json: sliding_window: only full attention is supported (null, or at least "
          "max_position_embeddings = {}), found {}{}",
          model.max_positions, window, it == config.end() ? " by default" : "");
  }
  if (const Json* types = find(config, "layer_types")) {
    check(types->is_array(), kOperation, "config.json: layer_types: expected a list, found {}",
          types->dump());
    for (const Json& type : *types)
      check(type == "full_attention", kOperation,
            "config.json: layer_types: only \"full_attention\" is supported, found {}",
            type.dump());
  }
}

std::string find_architecture(const Json& config) {
  const Json* list = find(config, "architectures");
  check(list == nullptr ||
            (list->is_array() && std::all_of(list->begin(), list->end(),
                                             [](const Json& name) { return name.is_string(); })),
        kOperation, "config.json: architectures: expected a list of names, found {}",
        list ? list->dump() : "");
  const bool named = list && !list->empty();
  const std::string found =
      named ? list->front().get<std::string>() : text_or(config, "model_type", "");
  std::string known;
  for (const auto& [type, architecture] : kArchitectures) {
    if (found == (named ? architecture : type)) return architecture;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", named ? architecture : type);
  }
  fail(kOperation, "config.json: {}: {} are supported, found \"{}\"",
       named ? "architectures" : "model_type (there are no architectures)", known, found);
}

// Llama and what differs from it by biases and norms alone.
void parse_llama(const Json& config, ModelConfig& model) {
  const bool llama = model.architecture == "LlamaForCausalLM";
  const bool qwen2 = model.architecture == "Qwen2ForCausalLM";
  const bool moe = model.architecture == "Qwen3MoeForCausalLM";
  const bool qwen3 = moe || model.architecture == "Qwen3ForCausalLM";
  const std::string activation = text_or(config, "hidden_act", "silu");
  check(activation == "silu" || activation == "swish", kOperation,
        "config.json: hidden_act: only silu is supported, found {}", activation);

  model.norm_eps = number_or(config, "rms_norm_eps", 1e-6);
  check(model.norm_eps < 1, kOperation,
        "config.json: rms_norm_eps: expected a number below 1, found {}", model.norm_eps);
  model.rope = parse_rope(config, model.max_positions);
  reject_sliding_window(config, model);

  AttentionConfig attention;
  attention.heads = size(config, "num_attention_heads");
  attention.kv_heads = size_or(config, "num_key_value_heads", attention.heads);
  check(attention.heads % attention.kv_heads == 0, kOperation,
        "config.json: num_attention_heads: expected a multiple of num_key_value_heads {}, found {}",
        attention.kv_heads, attention.heads);
  if (find(config, "head_dim")) {
    attention.head_dim = size(config, "head_dim");
  } else {
    const bool fixed = qwen3 && !moe;
    attention.head_dim = fixed ? 128 : model.hidden / attention.heads;
    check(fixed || model.hidden % attention.heads == 0, kOperation,
          "config.json: hidden_size: expected a multiple of num_attention_heads {} (there is no "
          "head_dim), found {}",
          attention.heads, model.hidden);
  }
  check(attention.head_dim % 2 == 0, kOperation,
        "config.json: head_dim: rotary embedding needs an even number, found {}",
        attention.head_dim);
  check(attention.heads * attention.head_dim <= kMostWidth, kOperation,
        "config.json: num_attention_heads: expected at most {} rows, found {} heads of {}",
        kMostWidth, attention.heads, attention.head_dim);
  const bool bias = (llama || qwen3) && boolean_or(config, "attention_bias", false);
  attention.qkv_bias = qwen2 || bias;
  attention.output_bias = bias;
  attention.qk_norm = qwen3;

  const MlpConfig mlp{size(config, "intermediate_size"),
                      llama && boolean_or(config, "mlp_bias", false)};
  model.layers.assign(static_cast<std::size_t>(size(config, "num_hidden_layers", kMostLayers)),
                      LayerConfig{attention, mlp});
  if (moe) parse_qwen3_moe(config, model);
}

}  // namespace

ModelConfig parse_config(const Json& config, const Json& generation_config) {
  check(config.is_object(), kOperation, "config.json: expected an object");
  check(generation_config.is_null() || generation_config.is_object(), kOperation,
        "generation_config.json: expected an object");
  ModelConfig model;
  model.architecture = find_architecture(config);
  model.model_type = text_or(config, "model_type", "");
  model.hidden = size(config, "hidden_size");
  model.vocabulary = size(config, "vocab_size", kMostVocabulary);
  model.max_positions = size_or(config, "max_position_embeddings", 2048, kMostPositions);
  model.tied = boolean_or(config, "tie_word_embeddings", false);
  if (model.architecture == "NemotronHForCausalLM")
    parse_nemotron_h(config, model);
  else
    parse_llama(config, model);

  if (const Json* bos = find(config, "bos_token_id"))
    model.bos = token_ids(*bos, "config.json", "bos_token_id").front();
  if (const Json* eos = find(config, "eos_token_id"))
    model.eos = token_ids(*eos, "config.json", "eos_token_id");
  if (!generation_config.is_null())
    if (const Json* eos = find(generation_config, "eos_token_id"))
      model.eos = token_ids(*eos, "generation_config.json", "eos_token_id");
  return model;
}

}  // namespace qad::models
