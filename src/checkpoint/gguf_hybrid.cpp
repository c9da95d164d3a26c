#include "checkpoint/gguf_hybrid.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <map>

#include "checkpoint/dtype.h"
#include "core/error.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOperation = "write_gguf", kMixer = "mixer.", kExperts = "experts.";

using Name = std::pair<std::string_view, std::string_view>;
constexpr Name kGlobals[] = {{"backbone.embeddings.weight", "token_embd.weight"},
                             {"backbone.norm_f.weight", "output_norm.weight"},
                             {"lm_head.weight", "output.weight"}};
// Behind "mixer.", without ".weight" and ".bias".
constexpr Name kLinears[] = {{"q_proj", "attn_q"},
                             {"k_proj", "attn_k"},
                             {"v_proj", "attn_v"},
                             {"o_proj", "attn_output"},
                             {"in_proj", "ssm_in"},
                             {"out_proj", "ssm_out"},
                             {"conv1d", "ssm_conv1d"},
                             {"norm", "ssm_norm"},
                             {"up_proj", "ffn_up"},
                             {"down_proj", "ffn_down"},
                             {"gate", "ffn_gate_inp"},
                             {"shared_experts.up_proj", "ffn_up_shexp"},
                             {"shared_experts.down_proj", "ffn_down_shexp"}};
// Whole.
constexpr Name kConstants[] = {{"A_log", "ssm_a"},
                               {"D", "ssm_d"},
                               {"dt_bias", "ssm_dt.bias"},
                               {"gate.e_score_correction_bias", "exp_probs_b.bias"}};

std::string_view named(std::span<const Name> names, std::string_view key) {
  for (const auto& [hf, ggml] : names)
    if (hf == key) return ggml;
  return {};
}

// The number that `text` begins with, which a dot ends; both are taken off.
std::int64_t take_number(std::string_view& text) {
  std::int64_t number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end == text.data() + text.size() || *end != '.') return -1;
  text.remove_prefix(static_cast<std::size_t>(end + 1 - text.data()));
  return number;
}

// Where a tensor of a layer is: what follows "backbone.layers.N.".
struct Place {
  std::int64_t layer = -1;
  std::string_view rest;
};
Place place_of(std::string_view name) {
  constexpr std::string_view kLayers = "backbone.layers.";
  if (!name.starts_with(kLayers)) return {};
  name.remove_prefix(kLayers.size());
  const std::int64_t layer = take_number(name);
  return {layer, name};
}

std::int64_t integer(const Json& config, std::initializer_list<const char*> keys) {
  for (const char* key : keys)
    if (const auto it = config.find(key); it != config.end() && it->is_number_integer())
      return it->get<std::int64_t>();
  fail(kOperation, "config.json: expected a whole number under {}", *keys.begin());
}

// The same values in FP32, in another shape, by `change`.
OutWeight changed(const OutWeight& w, std::vector<std::int64_t> shape,
                  std::function<void(float*, std::int64_t)> change = {}) {
  OutWeight out{w.name, std::move(shape), DType::f32, {}, {}, {}};
  const auto n = *count_elements(out.shape);
  check(count_elements(w.shape) == n, kOperation, "{}: expected {} values, found {}", w.name, n,
        shape_text(w.shape));
  out.fill = [w, n, change = std::move(change)](std::byte* bytes) {
    std::vector<float> values(static_cast<std::size_t>(n));
    values_of(w, values.data());
    if (change) change(values.data(), n);
    std::memcpy(bytes, values.data(), values.size() * sizeof(float));
  };
  return out;
}

// A tensor of a mixer that is not one of many experts'; empty name: unknown.
GgufWeight mixer_weight(const OutModel& m, const OutWeight& w, std::string_view rest) {
  if (const auto ggml = named(kConstants, rest); !ggml.empty()) {
    const std::int64_t n = *count_elements(w.shape);
    const bool column = rest == "A_log" || rest == "D";
    return {std::string(ggml),
            {changed(w, column ? std::vector{n, std::int64_t{1}} : std::vector{n},
                     rest == "A_log" ? [](float* x, std::int64_t count) {
                       for (std::int64_t i = 0; i < count; ++i) x[i] = -std::exp(x[i]);
                     } : std::function<void(float*, std::int64_t)>())},
            false,
            true};
  }
  const auto dot = rest.rfind('.');
  const std::string_view stem = rest.substr(0, dot),
                         suffix = dot == rest.npos ? std::string_view() : rest.substr(dot);
  const auto ggml = named(kLinears, stem);
  if (ggml.empty() || (suffix != ".weight" && suffix != ".bias")) return {};
  GgufWeight out{fmt::format("{}{}", ggml, suffix), {w}, false, false};
  if (suffix == ".bias") return out;
  if (stem == "conv1d") {
    check(w.shape.size() == 3 && w.shape[1] == 1, kOperation,
          "{}: expected [channels, 1, taps], "
          "found {}",
          w.name, shape_text(w.shape));
    out.parts[0] = changed(w, {w.shape[0], w.shape[2]});
    out.f32 = true;
  } else if (stem == "norm") {
    const std::int64_t n = *count_elements(w.shape),
                       groups = integer(m.config, {"n_groups", "mamba_n_groups"});
    check(groups > 0 && n % groups == 0, kOperation,
          "{}: expected a multiple of {} groups, found "
          "{}",
          w.name, groups, n);
    out.parts[0] = changed(w, {groups, n / groups});
    out.f32 = true;
  } else if (stem == "gate") {
    out.f32 = true;
  }
  return out;
}

// What layers are, by the names of their tensors.
struct Kinds {
  std::vector<bool> attention, mamba, mlp, experts;
  bool any_experts = false;
};
Kinds kinds_of(const OutModel& m) {
  Kinds k;
  for (const OutWeight& w : m.weights) {
    const Place p = place_of(w.name);
    if (p.layer < 0) continue;
    const auto i = static_cast<std::size_t>(p.layer);
    for (auto* kind : {&k.attention, &k.mamba, &k.mlp, &k.experts})
      if (kind->size() <= i) kind->resize(i + 1);
    k.attention[i] = k.attention[i] || p.rest == "mixer.q_proj.weight";
    k.mamba[i] = k.mamba[i] || p.rest == "mixer.in_proj.weight";
    k.mlp[i] = k.mlp[i] || p.rest == "mixer.up_proj.weight";
    k.experts[i] = k.experts[i] || p.rest.starts_with("mixer.experts.");
    k.any_experts = k.any_experts || k.experts[i];
  }
  return k;
}

}  // namespace

bool is_hybrid(const OutModel& m) {
  return m.config.value("model_type", "") == "nemotron_h";
}

std::string hybrid_architecture(const OutModel& m) {
  return kinds_of(m).any_experts ? "nemotron_h_moe" : "nemotron_h";
}

std::vector<GgufWeight> hybrid_weights(const OutModel& m) {
  std::vector<GgufWeight> all;
  std::map<std::string, std::map<std::int64_t, OutWeight>> stacks;
  for (const OutWeight& w : m.weights) {
    if (const auto ggml = named(kGlobals, w.name); !ggml.empty()) {
      all.push_back({std::string(ggml), {w}});
      continue;
    }
    const auto [layer, rest] = place_of(w.name);
    GgufWeight found;
    if (rest == "norm.weight") found = {"attn_norm.weight", {w}};
    if (rest.starts_with(kMixer)) {
      std::string_view inside = rest.substr(kMixer.size());
      if (inside.starts_with(kExperts)) {
        inside.remove_prefix(kExperts.size());
        const std::int64_t expert = take_number(inside);
        if (expert >= 0 && (inside == "up_proj.weight" || inside == "down_proj.weight")) {
          const char* which = inside[0] == 'u' ? "up" : "down";
          stacks[fmt::format("blk.{}.ffn_{}_exps.weight", layer, which)].emplace(expert, w);
          continue;
        }
      } else {
        found = mixer_weight(m, w, inside);
      }
    }
    check(layer >= 0 && !found.name.empty(), kOperation,
          "{}: GGUF has no name for it in a nemotron_h", w.name);
    found.name = fmt::format("blk.{}.{}", layer, found.name);
    all.push_back(std::move(found));
  }
  for (auto& [name, experts] : stacks) {
    GgufWeight stack{name, {}, true, false};
    for (auto& [number, w] : experts) {
      check(number == static_cast<std::int64_t>(stack.parts.size()), kOperation,
            "{}: expected the layer's experts from 0 on without a gap", w.name);
      stack.parts.push_back(std::move(w));
      const OutWeight &first = stack.parts.front(), &last = stack.parts.back();
      check(last.shape == first.shape && algo_of(last) == algo_of(first), kOperation,
            "{} and {}: expected experts of one shape and format, which GGUF keeps in one tensor",
            first.name, last.name);
    }
    all.push_back(std::move(stack));
  }
  return all;
}

void add_hybrid_keys(const OutModel& m, Json& keys) {
  const Json& config = m.config;
  const Kinds kinds = kinds_of(m);
  const std::string arch = hybrid_architecture(m);
  const std::size_t layers = kinds.mamba.size();
  const auto put = [&](const char* key, const Json& value) { keys[arch + "." + key] = value; };
  const auto number = [&](std::initializer_list<const char*> names) {
    return static_cast<std::uint32_t>(integer(config, names));
  };
  const auto groups = [&](const char* name) {  // of experts; one, where nothing is said
    return config.value(name, Json()).is_null() ? std::uint32_t{1} : number({name});
  };
  const auto of_layers = [&](const std::vector<bool>& which, std::uint32_t value) {
    Json list = Json::array();
    for (std::size_t i = 0; i < layers; ++i) list.push_back(which[i] ? value : std::uint32_t{0});
    return list;
  };
  for (std::size_t i = 0; i < layers; ++i)
    check(!kinds.any_experts || !kinds.mlp[i], kOperation,
          "layer {} is a plain MLP in a model with experts; llama.cpp has no such nemotron_h", i);
  put("block_count", static_cast<std::uint32_t>(layers));
  put("context_length", number({"max_position_embeddings"}));
  put("embedding_length", number({"hidden_size"}));
  put("vocab_size", number({"vocab_size"}));
  put("attention.head_count", number({"num_attention_heads"}));
  put("attention.head_count_kv", of_layers(kinds.attention, number({"num_key_value_heads"})));
  const std::uint32_t head_dim = number({"head_dim", "attention_head_dim"});
  put("attention.key_length", head_dim);
  put("attention.value_length", head_dim);
  // llama.cpp demands the first, of LayerNorms, and computes its norms with the second.
  const Json epsilon = config.value("layer_norm_epsilon", config.value("norm_eps", Json(1e-5)));
  put("attention.layer_norm_epsilon", epsilon);
  put("attention.layer_norm_rms_epsilon", epsilon);
  put("ssm.conv_kernel", number({"conv_kernel", "mamba_d_conv"}));
  put("ssm.state_size", number({"ssm_state_size"}));
  put("ssm.group_count", number({"n_groups", "mamba_n_groups"}));
  put("ssm.inner_size", number({"mamba_num_heads"}) * number({"mamba_head_dim"}));
  // llama.cpp keeps Mamba-2's heads here.
  put("ssm.time_step_rank", number({"mamba_num_heads"}));
  if (!kinds.any_experts) {
    const bool any = std::ranges::find(kinds.mlp, true) != kinds.mlp.end();
    put("feed_forward_length", of_layers(kinds.mlp, any ? number({"intermediate_size"}) : 0));
    return;
  }
  const std::uint32_t width = number({"moe_intermediate_size"});
  put("feed_forward_length", of_layers(kinds.experts, width));
  put("expert_feed_forward_length", width);
  put("expert_count", number({"n_routed_experts"}));
  put("expert_used_count", number({"num_experts_per_tok"}));
  put("expert_shared_count", number({"n_shared_experts"}));
  if (number({"n_shared_experts"}) > 0)
    put("expert_shared_feed_forward_length", number({"moe_shared_expert_intermediate_size"}));
  put("expert_weights_norm", config.value("norm_topk_prob", true));
  put("expert_weights_scale", config.value("routed_scaling_factor", 1.0));
  put("expert_group_count", groups("n_group"));
  put("expert_group_used_count", groups("topk_group"));
}

}  // namespace qad::checkpoint
