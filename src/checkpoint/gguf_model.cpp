// GGUF metadata to config.json, and ggml's tensor names to Hugging Face's: the inverse of
// llama.cpp's convert_hf_to_gguf.py for llama, qwen2 and qwen3.
#include "checkpoint/gguf_model.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numbers>
#include <utility>

#include "core/error.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOp = "open_gguf";

struct Architecture {
  std::string_view name, hf_class;
};
constexpr std::array kArchitectures = {Architecture{"llama", "LlamaForCausalLM"},
                                       Architecture{"qwen2", "Qwen2ForCausalLM"},
                                       Architecture{"qwen3", "Qwen3ForCausalLM"}};

// Names of llama.cpp's gguf-py/gguf/tensor_mapping.py, without ".weight" or ".bias".
using Name = std::pair<std::string_view, std::string_view>;
constexpr std::array kGlobalNames = {Name{"token_embd", "model.embed_tokens"},
                                     Name{"output_norm", "model.norm"}, Name{"output", "lm_head"}};
constexpr std::array kLayerNames = {
    Name{"attn_norm", "input_layernorm"},    Name{"attn_q", "self_attn.q_proj"},
    Name{"attn_k", "self_attn.k_proj"},      Name{"attn_v", "self_attn.v_proj"},
    Name{"attn_output", "self_attn.o_proj"}, Name{"attn_q_norm", "self_attn.q_norm"},
    Name{"attn_k_norm", "self_attn.k_norm"}, Name{"ffn_norm", "post_attention_layernorm"},
    Name{"ffn_gate", "mlp.gate_proj"},       Name{"ffn_up", "mlp.up_proj"},
    Name{"ffn_down", "mlp.down_proj"}};

std::optional<std::string_view> find_name(auto& names, std::string_view key) {
  for (const auto& [ggml, hf] : names) {
    if (ggml == key) return hf;
  }
  return std::nullopt;
}

// GGUF stores FP32; config.json wants the decimal that was meant (1e-05, not 9.99999974e-06). Both
// name one float.
double shortest_decimal(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), static_cast<float>(value)).ptr;
  double decimal = value;
  std::from_chars(text, end, decimal);
  return decimal;
}

// The keys under "{arch}.", typed.
class Keys {
 public:
  Keys(const GgufFile& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}

  const Json* find(std::string_view key) const {
    const auto entry = file_.metadata.find(prefix_ + std::string(key));
    return entry == file_.metadata.end() ? nullptr : &*entry;
  }

  std::int64_t integer(std::string_view key,
                       std::optional<std::int64_t> fallback = std::nullopt) const {
    const Json* value = find(key);
    if (value == nullptr && fallback) return *fallback;
    require(value, key);
    const bool ok = value->is_number_integer() && *value >= 1 && *value <= INT32_MAX;
    check(ok, kOp, "{}: {}{}: expected one integer from 1 to {}, found {}", file_.where, prefix_,
          key, INT32_MAX, found(*value));
    return value->get<std::int64_t>();
  }

  double number(std::string_view key, std::optional<double> fallback = std::nullopt) const {
    const Json* value = find(key);
    if (value == nullptr && fallback) return *fallback;
    require(value, key);
    const bool ok =
        value->is_number() && std::isfinite(value->get<double>()) && value->get<double>() > 0;
    check(ok, kOp, "{}: {}{}: expected a positive number, found {}", file_.where, prefix_, key,
          found(*value));
    return shortest_decimal(value->get<double>());
  }

  // Keys that change what the layers compute, in ways the config of these architectures has no word
  // for.
  void require_neutral(std::string_view key, double neutral) const {
    const Json* value = find(key);
    if (value == nullptr) return;
    const bool ok = (value->is_number() && value->get<double>() == neutral) ||
                    (value->is_boolean() && value->get<bool>() == (neutral != 0));
    check(ok, kOp, "{}: {}{} is {}; such models are not supported", file_.where, prefix_, key,
          found(*value));
  }

  static std::string found(const Json& value) {
    return value.is_number() ? value.dump() : value.type_name();
  }

 private:
  void require(const Json* value, std::string_view key) const {
    check(value != nullptr, kOp, "{}: key {}{} is missing", file_.where, prefix_, key);
  }

  const GgufFile& file_;
  std::string prefix_;
};

const GgufTensor* find_tensor(const GgufFile& file, std::string_view name) {
  const auto t = std::ranges::find(file.tensors, name, &GgufTensor::name);
  return t == file.tensors.end() ? nullptr : &*t;
}

// Llama 3's rotary scaling: the converter stores no parameters but the divisor it gives each
// frequency.
struct Llama3Rope {
  double factor, low, high, original_context;

  double divisor(double frequency) const {
    const double rotations =
        original_context * frequency / (2 * std::numbers::pi);  // over the original context
    if (rotations > high) return 1;
    if (rotations < low) return factor;
    const double smooth = (rotations - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  }
};

// The parameters that give `divisors`, which fix them up to a common scale of low, high and
// original_context: Llama 3's published low = 1 settles it. Between the plateaus smooth is a line
// in the frequency, and two of its points give it.
std::optional<Llama3Rope> fit_llama3(const std::vector<float>& divisors, double theta) {
  const double factor = shortest_decimal(*std::ranges::max_element(divisors));
  const auto frequency = [&](std::size_t i) {
    return std::pow(theta, -static_cast<double>(i) / static_cast<double>(divisors.size()));
  };
  const auto matches = [&](const Llama3Rope& rope) {
    for (std::size_t i = 0; i < divisors.size(); ++i) {
      if (!(std::abs(rope.divisor(frequency(i)) / divisors[i] - 1) < 1e-4)) return false;
    }
    return true;
  };
  if (const Llama3Rope published{factor, 1, 4, 8192}; matches(published)) return published;

  std::vector<std::size_t> slope;
  for (std::size_t i = 0; i < divisors.size(); ++i) {
    if (divisors[i] > 1 && divisors[i] < factor) slope.push_back(i);
  }
  if (slope.size() < 2) return std::nullopt;
  const auto smooth = [&](std::size_t i) {
    return (1 / divisors[i] - 1 / factor) / (1 - 1 / factor);
  };
  const std::size_t a = slope.front(), b = slope.back();
  const double gradient = (smooth(a) - smooth(b)) / (frequency(a) - frequency(b));
  const double high = 1 + 1 / (gradient * frequency(a) - smooth(a));
  const double context = gradient * (high - 1) * 2 * std::numbers::pi;
  for (const Llama3Rope& rope : {Llama3Rope{factor, 1, std::round(high), std::round(context)},
                                 Llama3Rope{factor, 1, high, std::round(context)}}) {
    if (rope.high > 1 && matches(rope)) return rope;
  }
  return std::nullopt;
}

// rope_scaling of config.json; null for none.
Json rope_scaling(const GgufFile& file, const Keys& keys, std::int64_t head_dim, double theta) {
  const Json* type = keys.find("rope.scaling.type");
  const std::string name = type == nullptr     ? "none"
                           : type->is_string() ? type->get<std::string>()
                                               : "malformed";
  const GgufTensor* divisors = find_tensor(file, "rope_freqs.weight");
  if (divisors != nullptr) {
    const std::vector<std::int64_t> expected{head_dim / 2};
    check(divisors->shape == expected && divisors->format->name == "F32", kOp,
          "{}: rope_freqs.weight: expected {} values in F32", file.where, head_dim / 2);
    std::vector<float> values(static_cast<std::size_t>(head_dim / 2));
    divisors->format->dequantize(divisors->data.data(), head_dim / 2, values.data());
    if (std::ranges::all_of(values, [](float v) { return v == 1; })) return nullptr;
    check(name == "none" &&
              std::ranges::all_of(values, [](float v) { return v >= 1 && std::isfinite(v); }),
          kOp, "{}: rope_freqs.weight together with rope scaling '{}' is not Llama 3's scaling",
          file.where, name);
    const auto rope = fit_llama3(values, theta);
    check(rope.has_value(), kOp,
          "{}: rope_freqs.weight fits no Llama 3 scaling (factor, low and high frequency factor, "
          "original context)",
          file.where);
    return {
        {"rope_type", "llama3"},
        {"factor", rope->factor},
        {"low_freq_factor", rope->low},
        {"high_freq_factor", rope->high},
        {"original_max_position_embeddings", static_cast<std::int64_t>(rope->original_context)}};
  }
  if (name == "none") return nullptr;
  check(name == "linear" || name == "yarn", kOp,
        "{}: rope scaling '{}' is not supported; expected none, linear, yarn or Llama 3's "
        "rope_freqs.weight",
        file.where, name);
  Json scaling{{"rope_type", name}, {"factor", keys.number("rope.scaling.factor")}};
  if (name == "yarn") {
    keys.require_neutral("rope.scaling.attn_factor", 1);  // Hugging Face's is another quantity
    keys.require_neutral("rope.scaling.yarn_attn_factor", 1);
    keys.require_neutral("rope.scaling.yarn_ext_factor", 1);
    keys.require_neutral("rope.scaling.yarn_log_multiplier", 0);
    scaling["original_max_position_embeddings"] =
        keys.integer("rope.scaling.original_context_length");
    for (const auto beta : {"beta_fast", "beta_slow"}) {
      const std::string key = fmt::format("rope.scaling.yarn_{}", beta);
      if (keys.find(key)) scaling[beta] = keys.number(key);
    }
  }
  return scaling;
}

// Chat models name up to three tokens that end a turn; Hugging Face's eos_token_id is one number or
// a list.
void add_token_ids(Json& config, const Keys& tokenizer) {
  const auto id = [&](std::string_view key) -> std::optional<std::int64_t> {
    const Json* value = tokenizer.find(key);
    if (value == nullptr || !value->is_number_integer()) return std::nullopt;
    return value->get<std::int64_t>();
  };
  if (const auto bos = id("bos_token_id")) config["bos_token_id"] = *bos;
  Json ends = Json::array();
  for (const auto key : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    const auto end = id(key);
    if (end && std::ranges::find(ends, Json(*end)) == ends.end()) ends.push_back(*end);
  }
  if (!ends.empty()) config["eos_token_id"] = ends.size() == 1 ? ends[0] : ends;
  if (const auto pad = id("padding_token_id")) config["pad_token_id"] = *pad;
}

const Architecture& architecture_of(const GgufFile& file) {
  const auto entry = file.metadata.find("general.architecture");
  check(entry != file.metadata.end() && entry->is_string(), kOp,
        "{}: key general.architecture is missing", file.where);
  const auto& name = entry->get_ref<const std::string&>();
  const auto found = std::ranges::find(kArchitectures, name, &Architecture::name);
  check(found != kArchitectures.end(), kOp,
        "{}: architecture '{}' is not supported; expected llama, qwen2 or qwen3", file.where, name);
  return *found;
}

}  // namespace

Json gguf_config(const GgufFile& file) {
  const Architecture& arch = architecture_of(file);
  if (const Keys split(file, "split."); split.find("count")) {
    check(split.integer("count") == 1, kOp,
          "{}: is one of several parts; join them first (llama-gguf-split --merge)", file.where);
  }
  const Keys keys(file, std::string(arch.name) + ".");
  for (const auto key :
       {"expert_count", "expert_used_count", "attention.sliding_window", "attention.clamp_kqv",
        "attention.max_alibi_bias", "attn_logit_softcapping", "final_logit_softcapping"}) {
    keys.require_neutral(key, 0);
  }
  for (const auto key : {"attention.causal", "logit_scale", "residual_scale", "embedding_scale",
                         "rope.scale_linear"}) {
    keys.require_neutral(key, 1);
  }

  const std::int64_t hidden = keys.integer("embedding_length");
  const std::int64_t heads = keys.integer("attention.head_count");
  const std::int64_t kv_heads = keys.integer("attention.head_count_kv", heads);
  check(keys.find("attention.key_length") || hidden % heads == 0, kOp,
        "{}: {}.embedding_length {} is no multiple of {} attention heads, and no key_length says "
        "their size",
        file.where, arch.name, hidden, heads);
  const std::int64_t head_dim = keys.integer("attention.key_length", hidden / heads);
  check(heads % kv_heads == 0, kOp, "{}: {} attention heads are no multiple of {} key-value heads",
        file.where, heads, kv_heads);
  check(head_dim % 2 == 0, kOp, "{}: head dimension {} is odd", file.where, head_dim);
  for (const auto key : {"attention.value_length", "rope.dimension_count"}) {
    check(keys.integer(key, head_dim) == head_dim, kOp,
          "{}: {}.{} is {}, expected the head dimension {}", file.where, arch.name, key,
          keys.integer(key, head_dim), head_dim);
  }
  const double theta = keys.number("rope.freq_base", 10000.0);
  const GgufTensor* embedding = find_tensor(file, "token_embd.weight");
  check(embedding != nullptr && embedding->shape.size() == 2, kOp,
        "{}: token_embd.weight is missing or no matrix", file.where);

  Json config{{"architectures", {arch.hf_class}},
              {"model_type", arch.name},
              {"hidden_size", hidden},
              {"intermediate_size", keys.integer("feed_forward_length")},
              {"num_hidden_layers", keys.integer("block_count")},
              {"num_attention_heads", heads},
              {"num_key_value_heads", kv_heads},
              {"head_dim", head_dim},
              {"hidden_act", "silu"},
              {"rms_norm_eps", keys.number("attention.layer_norm_rms_epsilon")},
              {"rope_theta", theta},
              {"rope_scaling", rope_scaling(file, keys, head_dim, theta)},
              {"max_position_embeddings", keys.integer("context_length")},
              {"vocab_size", embedding->shape[0]},
              {"tie_word_embeddings", find_tensor(file, "output.weight") == nullptr}};
  if (arch.name !=
      "qwen2") {  // Qwen2 always has biases on q, k, v and none on o; its config has no word for it
    config["attention_bias"] = find_tensor(file, "blk.0.attn_q.bias") != nullptr;
  }
  if (arch.name == "llama") config["mlp_bias"] = find_tensor(file, "blk.0.ffn_up.bias") != nullptr;
  add_token_ids(config, Keys(file, "tokenizer.ggml."));
  config["torch_dtype"] = "bfloat16";
  return config;
}

std::optional<std::string> gguf_to_hf_name(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view suffix = name.substr(dot);
  std::string_view stem = name.substr(0, dot);
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
  if (!stem.starts_with("blk.")) {
    const auto hf = find_name(kGlobalNames, stem);
    return hf ? std::optional(fmt::format("{}{}", *hf, suffix)) : std::nullopt;
  }
  stem.remove_prefix(4);
  unsigned layer = 0;
  const auto [end, error] = std::from_chars(stem.data(), stem.data() + stem.size(), layer);
  if (error != std::errc() || end == stem.data() + stem.size() || *end != '.') return std::nullopt;
  if (const auto hf =
          find_name(kLayerNames, std::string_view(end + 1, stem.data() + stem.size()))) {
    return fmt::format("model.layers.{}.{}{}", layer, *hf, suffix);
  }
  return std::nullopt;
}

std::int64_t interleaved_heads(std::string_view gguf_name, const Json& config) {
  if (config.at("model_type") != "llama") return 0;
  for (const auto& [part, key] :
       {Name{".attn_q.", "num_attention_heads"}, Name{".attn_k.", "num_key_value_heads"}}) {
    if (gguf_name.find(part) != std::string_view::npos)
      return config.at(std::string(key)).get<std::int64_t>();
  }
  return 0;
}

}  // namespace qad::checkpoint
