// GGUF metadata to config.json, and ggml's tensor names to Hugging Face's: the inverse of
// llama.cpp's convert_hf_to_gguf.py for llama, qwen2 and qwen3.
#include "checkpoint/gguf_model.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "checkpoint/gguf_rope.h"
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
              {"rope_scaling", gguf_rope_scaling(file, keys, head_dim, theta)},
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

std::optional<std::string> hf_to_gguf_name(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view suffix = name.substr(dot);
  std::string_view stem = name.substr(0, dot);
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
  for (const auto& [ggml, hf] : kGlobalNames)
    if (hf == stem) return fmt::format("{}{}", ggml, suffix);
  constexpr std::string_view kLayers = "model.layers.";
  if (!stem.starts_with(kLayers)) return std::nullopt;
  stem.remove_prefix(kLayers.size());
  const std::string_view number = stem.substr(0, stem.find('.'));
  if (number.empty() || number.find_first_not_of("0123456789") != number.npos) return std::nullopt;
  for (const auto& [ggml, hf] : kLayerNames)
    if (stem.size() > number.size() && stem.substr(number.size() + 1) == hf)
      return fmt::format("blk.{}.{}{}", number, ggml, suffix);
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
