// The rules are a table: a name, the engines that it is about, and a function that looks. Sources:
// the loaders of vLLM, SGLang, TensorRT-LLM, llama.cpp's converter, and compressed-tensors'
// schema, in versions of mid-2026.
#include "checkpoint/engines.h"

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <set>

#include "checkpoint/dtype.h"
#include "checkpoint/fp8.h"
#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "core/nearest.h"

namespace qad::checkpoint {
namespace {

constexpr std::array<std::string_view, 5> kEngines = {"vllm", "sglang", "trtllm", "llama.cpp",
                                                      "transformers"};
enum Engine : unsigned { vllm = 1, sglang = 2, trtllm = 4, llama_cpp = 8, transformers = 16 };
constexpr unsigned kServers = vllm | sglang | trtllm, kAll = 31;

struct Linear {
  std::string name;
  std::int64_t rows = 0, bytes = 0;  // bytes of codes in a row
  std::optional<float> global_scale, input_scale;
  bool fp8 = false;

  const char* scale_name() const { return fp8 ? "weight_scale" : "weight_scale_2"; }
};

// A checkpoint as the rules see it: also where its parts do not fit.
struct Subject {
  const Checkpoint& c;
  Quantization q;
  Json flat, nested;  // config.json's quantization_config and hf_quant_config.json; null: none
  std::map<std::string, Linear> linears;  // the NVFP4 ones
  std::map<std::string, Linear> fp8;      // those in FP8 with one scale
  Engine engine;

  bool compressed_tensors() const { return q.method == "compressed-tensors"; }
};

using Texts = std::vector<std::string>;

std::optional<float> scalar(const Checkpoint& c, const std::string& name) {
  if (!c.has(name) || c.at(name).elements() != 1) return std::nullopt;
  float value = 0;
  read_f32(c.at(name), &value);
  return value;
}

Json read_if_present(const fs::path& path) {
  return fs::exists(path) ? read_json(path) : Json();
}

Subject subject_of(const Checkpoint& c, Engine engine) {
  Subject s{c, read_quantization(c.quantization), {}, {}, {}, {}, engine};
  if (c.format == "safetensors") {
    s.nested = read_if_present(c.path / "hf_quant_config.json");
    s.flat = read_if_present(c.path / "config.json").value("quantization_config", Json());
  }
  constexpr std::string_view kWeight = ".weight";
  for (const auto& [name, t] : c.tensors) {
    if (!name.ends_with(kWeight) || t.shape.size() != 2) continue;
    const std::string linear = name.substr(0, name.size() - kWeight.size());
    if (t.fp8 && t.fp8->scales.size() == 1)
      s.fp8[linear] = {linear, t.shape[0], t.shape[1], t.fp8->scales.front(), t.fp8->input_scale,
                       true};
    if (t.dtype != DType::u8) continue;
    s.linears[linear] = {linear, t.shape[0], t.shape[1], scalar(c, linear + ".weight_scale_2"),
                         scalar(c, linear + ".input_scale")};
  }
  return s;
}

// --- rules over tensors ---

// Calls `differs` with each pair of linears in one precision that engines make one matrix of.
template <class Differs>
Texts fused_pairs(const Subject& s, Differs&& differs) {
  static const std::vector<std::vector<std::string>> kGroups{{"q_proj", "k_proj", "v_proj"},
                                                             {"gate_proj", "up_proj"},
                                                             {"w1", "w3"},
                                                             {"q_a_proj", "kv_a_proj_with_mqa"}};
  Texts found;
  for (const auto* linears : {&s.linears, &s.fp8})
    for (const auto& [name, linear] : *linears) {
      const auto dot = name.rfind('.') + 1;
      for (const auto& group : kGroups) {
        if (std::ranges::find(group, name.substr(dot)) == group.end()) continue;
        for (const std::string& leaf : group) {
          const auto other = linears->find(name.substr(0, dot) + leaf);
          if (other == linears->end() || other->first <= name) continue;
          if (std::string text = differs(linear, other->second); !text.empty())
            found.push_back(std::move(text));
        }
      }
    }
  return found;
}

bool same_bits(std::optional<float> a, std::optional<float> b) {
  return a.has_value() == b.has_value() &&
         (!a || std::bit_cast<std::uint32_t>(*a) == std::bit_cast<std::uint32_t>(*b));
}

const char* of_unequal(Engine engine) {
  return engine == trtllm ? "its assertion fails"
                          : "it takes the largest for all, and the others come out wrong";
}

Texts fused_scales(const Subject& s) {
  return fused_pairs(s, [&](const Linear& a, const Linear& b) -> std::string {
    if (same_bits(a.global_scale, b.global_scale)) return {};
    return fmt::format(
        "{} and {} have {} {} and {}: {}", a.name, b.name, a.scale_name(),
        a.global_scale.value_or(0), b.global_scale.value_or(0),
        a.fp8 ? "weights are rounded a second time, under the largest" : of_unequal(s.engine));
  });
}

Texts fused_inputs(const Subject& s) {
  return fused_pairs(s, [&](const Linear& a, const Linear& b) -> std::string {
    if (same_bits(a.input_scale, b.input_scale)) return {};
    return fmt::format("{} and {} have input_scale {} and {}: {}", a.name, b.name,
                       a.input_scale.value_or(0), b.input_scale.value_or(0), of_unequal(s.engine));
  });
}

Texts fused_algorithms(const Subject& s) {
  Texts found;
  std::set<std::string> names;
  for (const auto* linears : {&s.linears, &s.fp8})
    for (const auto& [name, linear] : *linears) names.insert(name);
  for (const std::string& name : names) {
    const auto dot = name.rfind('.') + 1;
    for (const auto& [leaf, others] :
         {std::pair("q_proj", std::vector{"k_proj", "v_proj"}),
          std::pair("k_proj", std::vector{"q_proj"}), std::pair("v_proj", std::vector{"q_proj"}),
          std::pair("gate_proj", std::vector{"up_proj"}),
          std::pair("up_proj", std::vector{"gate_proj"})}) {
      if (name.substr(dot) != leaf) continue;
      for (const char* other : others) {
        const std::string sibling = name.substr(0, dot) + other;
        if (s.c.has(sibling + ".weight") && s.q.algo_of(sibling) != s.q.algo_of(name))
          found.push_back(fmt::format(
              "{} is {} and {} is {}: they are one matrix there", name, s.q.algo_of(name), sibling,
              s.q.algo_of(sibling).empty() ? "plain" : s.q.algo_of(sibling)));
      }
    }
  }
  return found;
}

Texts columns_of_blocks(const Subject& s) {
  Texts found;
  for (const auto& [name, l] : s.linears)
    if (l.bytes % 8 != 0)
      found.push_back(fmt::format("{}: {} columns are no multiple of 16", name, 2 * l.bytes));
  return found;
}

Texts columns_of_64(const Subject& s) {
  Texts found;
  if (s.c.format == "gguf") return found;
  for (const auto& [name, l] : s.linears)
    if (l.bytes % 32 != 0)
      found.push_back(fmt::format(
          "{}: {} columns are no multiple of 64: its converter refuses; ours stores BF16", name,
          2 * l.bytes));
  return found;
}

// Its graph of qwen2 (llama-cpp-python 0.3.36) hands its feed-forward no scales.
Texts qwen2_scales(const Subject& s) {
  Texts found;
  if (s.c.config.value("model_type", Json()) != "qwen2") return found;
  for (const auto& [name, l] : s.linears)
    if (name.find(".mlp.") != name.npos && l.global_scale != 1.0f)
      found.push_back(fmt::format(
          "{}: its qwen2 computes it without the global scale {}: keep '*.mlp.*' in BF16, or qad "
          "convert --format gguf-bf16",
          name, l.global_scale.value_or(0)));
  return found;
}

Texts tiles_of_32(const Subject& s) {
  Texts found;
  for (const auto& [name, l] : s.linears)
    if (l.bytes % 16 != 0 || l.rows % 32 != 0)
      found.push_back(
          fmt::format("{}: [{}, {}] is no multiple of 32 both ways: it is padded at loading by "
                      "versions from 2026 on, and cannot be split further among GPUs",
                      name, l.rows, 2 * l.bytes));
  return found;
}

Texts plain_routers(const Subject& s) {
  Texts found;
  for (const auto* linears : {&s.linears, &s.fp8})
    for (const auto& [name, l] : *linears)
      for (const std::string_view router :
           {".mlp.gate", ".shared_expert_gate", ".router", ".block_sparse_moe.gate", ".mixer.gate"})
        if (name.ends_with(router))
          found.push_back(
              fmt::format("{}: a router in {} does not load", name, l.fp8 ? "FP8" : "NVFP4"));
  return found;
}

Texts input_scales(const Subject& s) {
  Texts found;
  for (const auto* linears : {&s.linears, &s.fp8})
    for (const auto& [name, l] : *linears) {
      const std::string algo = s.q.algo_of(name);
      const bool wanted = algo == "NVFP4" || (algo == "FP8" && s.q.method == "modelopt");
      if (wanted && !l.input_scale)
        found.push_back(fmt::format(
            "{}: input_scale is missing: the engine computes with whatever is there", name));
    }
  return found;
}

Texts no_pre_quant_scale(const Subject& s) {
  Texts found;
  for (const auto& [name, t] : s.c.tensors)
    if (name.ends_with(".pre_quant_scale"))
      found.push_back(fmt::format("{}: is not applied, and all products come out wrong", name));
  return found;
}

Texts cache_scales(const Subject& s) {
  if (s.q.kv_cache_algo.empty()) return {};
  const auto has = [&](std::string_view suffix) {
    return std::ranges::any_of(s.c.tensors,
                               [&](const auto& entry) { return entry.first.ends_with(suffix); });
  };
  if (s.engine == llama_cpp) return {"scales of the cache are dropped"};
  if (has(".k_scale") && has(".v_scale")) return {};
  return {fmt::format("keys and values are {}, but no k_scale and v_scale are there: it takes 1",
                      s.q.kv_cache_algo)};
}

// --- rules over metadata ---

Texts formats_known(const Subject& s) {
  if (s.linears.empty() && s.fp8.empty()) return {};
  const bool gguf = s.c.format == "gguf";
  if (s.engine == llama_cpp) {
    if (gguf) return {};
    return {"it reads GGUF: qad convert --format gguf"};
  }
  if (gguf) return {"it reads no NVFP4 from GGUF: qad convert --format modelopt"};
  if (s.q.method == "torchao" && s.engine == transformers) {
    Texts found;
    for (const auto& [name, linear] : s.linears)
      if (linear.input_scale)
        found.push_back(fmt::format(
            "{}: it does not load torchao's act_per_tensor_scale; quantise weights alone, or qad "
            "convert --format compressed-tensors",
            name));
    return found;
  }
  if (s.engine == transformers && !s.compressed_tensors())
    return {
        "it reads NVFP4 and FP8 by compressed-tensors, and NVFP4 by torchao, alone: qad convert "
        "--format "
        "compressed-tensors"};
  if (s.q.method == "modelopt" || s.compressed_tensors()) return {};
  return {fmt::format("quantization_config has quant_method \"{}\", which it does not know",
                      s.q.method)};
}

Texts algorithms_known(const Subject& s) {
  static const std::set<std::string> kServed{"",
                                             "FP8",
                                             "FP8_PER_CHANNEL_PER_TOKEN",
                                             "NVFP4",
                                             "MXFP8",
                                             "W4A16_NVFP4",
                                             "FP8_PB_WO",
                                             "MIXED_PRECISION"};
  Texts found;
  if (!kServed.contains(s.q.algo) && s.q.method == "modelopt")
    found.push_back(fmt::format("quant_algo {} is not among those that it loads", s.q.algo));
  for (const auto& [layer, algo] : s.q.layers)
    if (!kServed.contains(algo) || algo == "MIXED_PRECISION")
      found.push_back(
          fmt::format("quantized_layers: {}: {} is not among those that it loads", layer, algo));
  if (s.q.algo == "MIXED_PRECISION" && s.q.layers.empty())
    found.emplace_back("MIXED_PRECISION without quantized_layers");
  return found;
}

bool is_modelopt(const Subject& s) {
  return s.c.format == "safetensors" && s.q.method == "modelopt" && !s.linears.empty();
}

Texts group_size(const Subject& s) {
  if (!is_modelopt(s) || s.q.algo == "MIXED_PRECISION") return {};
  Texts found;
  if (!s.nested.is_null() && !s.nested.value("quantization", Json::object()).contains("group_size"))
    found.emplace_back("hf_quant_config.json: quantization.group_size is missing");
  if (s.nested.is_null() && s.q.group_size == 0)
    found.emplace_back("config.json: quantization_config has no group_size");
  return found;
}

Texts excluded_named(const Subject& s) {
  if (!is_modelopt(s) || s.q.algo == "MIXED_PRECISION") return {};
  Texts found;
  const Json nested = s.nested.is_null() ? Json() : s.nested.value("quantization", Json::object());
  if (!nested.is_null() && !nested.contains("exclude_modules"))
    found.emplace_back("hf_quant_config.json: quantization.exclude_modules is missing");
  if (nested.is_null() && !s.flat.is_null() && !s.flat.contains("ignore") &&
      !s.flat.contains("exclude_modules"))
    found.emplace_back("config.json: quantization_config has neither ignore nor exclude_modules");
  return found;
}

Texts cache_named(const Subject& s) {
  if (!is_modelopt(s) || s.nested.is_null()) return {};
  if (s.nested.value("quantization", Json::object()).contains("kv_cache_quant_algo")) return {};
  return {"hf_quant_config.json: quantization.kv_cache_quant_algo is missing; null says none"};
}

Texts groups_apart(const Subject& s) {
  if (!s.compressed_tensors() || !s.flat.is_object()) return {};
  const Json groups = s.flat.value("config_groups", Json::object());
  std::set<std::string> seen;
  Texts found;
  for (const auto& [name, group] : groups.items())
    for (const Json& target : group.value("targets", Json::array())) {
      const std::string text = target.is_string() ? target.get<std::string>() : target.dump();
      if (!seen.insert(text).second)
        found.push_back(
            fmt::format("config_groups.{}: target {} is in another group too", name, text));
      if (groups.size() > 1 && (text == "Linear" || text.starts_with("re:")))
        found.push_back(fmt::format(
            "config_groups.{}: target {} may overlap another group's; engines choose differently: "
            "name the modules",
            name, text));
    }
  return found;
}

Texts one_group(const Subject& s) {
  if (!s.compressed_tensors() || !s.flat.is_object()) return {};
  if (s.flat.value("config_groups", Json::object()).size() < 2) return {};
  return {"its converter takes no mixed compressed-tensors; qad convert --format gguf does"};
}

Texts group_keys(const Subject& s) {
  static const std::set<std::string> kGroup{"targets", "weights", "input_activations",
                                            "output_activations", "format"};
  static const std::set<std::string> kOperand{
      "num_bits", "type",     "symmetric",   "group_size", "strategy", "block_structure",
      "dynamic",  "actorder", "scale_dtype", "zp_dtype",   "observer", "observer_kwargs"};
  if (!s.compressed_tensors() || !s.flat.is_object()) return {};
  Texts found;
  const auto look = [&](const std::string& where, const Json& object,
                        const std::set<std::string>& known) {
    if (!object.is_object()) return;
    for (const auto& [key, value] : object.items())
      if (!known.contains(key))
        found.push_back(
            fmt::format("{}: the schema has no key \"{}\" and forbids others", where, key));
  };
  const Json groups = s.flat.value("config_groups", Json::object());
  for (const auto& [name, group] : groups.items()) {
    const std::string where = "config_groups." + name;
    look(where, group, kGroup);
    for (const char* operand : {"weights", "input_activations", "output_activations"})
      look(where + "." + operand, group.value(operand, Json()), kOperand);
  }
  look("kv_cache_scheme", s.flat.value("kv_cache_scheme", Json()), kOperand);
  return found;
}

Texts files_agree(const Subject& s) {
  if (s.nested.is_null() || s.flat.is_null()) return {};
  const Json nested = s.nested.value("quantization", Json::object());
  const Json a = nested.value("quant_algo", Json()), b = s.flat.value("quant_algo", Json());
  if (a == b) return {};
  return {fmt::format("hf_quant_config.json says {}, config.json {}: engines read one or the other",
                      a.dump(), b.dump())};
}

struct Rule {
  std::string_view name;
  unsigned engines;
  bool fatal;
  Texts (*look)(const Subject&);
};

constexpr std::array kRules = {
    Rule{"format", kAll, true, formats_known},
    Rule{"algorithm", kServers, true, algorithms_known},
    Rule{"fused-scales", kServers, true, fused_scales},
    Rule{"fused-inputs", kServers, true, fused_inputs},
    Rule{"fused-algorithms", kServers, true, fused_algorithms},
    Rule{"columns-16", kAll, true, columns_of_blocks},
    Rule{"columns-64", llama_cpp, true, columns_of_64},
    Rule{"qwen2-scales", llama_cpp, true, qwen2_scales},
    Rule{"tiles-32", kServers, false, tiles_of_32},
    Rule{"router", kServers, true, plain_routers},
    Rule{"input-scale", kServers, true, input_scales},
    Rule{"pre-quant-scale", kAll & ~trtllm, true, no_pre_quant_scale},
    Rule{"cache-scales", kServers | llama_cpp, false, cache_scales},
    Rule{"group-size", kServers, true, group_size},
    Rule{"excluded-named", vllm | sglang, true, excluded_named},
    Rule{"cache-named", vllm, true, cache_named},
    Rule{"files-agree", kServers, true, files_agree},
    Rule{"groups-apart", vllm | sglang | transformers, true, groups_apart},
    Rule{"one-group", llama_cpp, false, one_group},
    Rule{"group-keys", vllm | sglang | transformers, true, group_keys},
};

}  // namespace

std::span<const std::string_view> engines() {
  return kEngines;
}

std::vector<std::string_view> rule_names() {
  std::vector<std::string_view> names;
  for (const Rule& rule : kRules) names.push_back(rule.name);
  return names;
}

std::vector<Finding> findings(const Checkpoint& c, std::string_view engine) {
  const auto at = std::ranges::find(kEngines, engine);
  if (at == kEngines.end()) {
    const std::vector<std::string> known(kEngines.begin(), kEngines.end());
    fail("verify", "engine \"{}\": expected vllm, sglang, trtllm, llama.cpp or transformers{}",
         engine, did_you_mean(engine, known));
  }
  const auto bit = static_cast<Engine>(1u << (at - kEngines.begin()));
  std::vector<Finding> found;
  try {
    const Subject subject = subject_of(c, bit);
    for (const Rule& rule : kRules)
      if (rule.engines & bit)
        for (std::string& text : rule.look(subject))
          found.push_back({rule.name, rule.fatal, std::move(text)});
  } catch (
      const std::exception& e) {  // malformed JSON: ours, or a wrong type met by nlohmann::json
    found.push_back({"metadata", true, e.what()});
  }
  return found;
}

}  // namespace qad::checkpoint
