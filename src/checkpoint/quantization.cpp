// The two spellings of a quantised checkpoint's metadata brought into one, and questions asked of
// it.
#include <fnmatch.h>

#include <algorithm>

#include "checkpoint/hf_folder.h"
#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "nvfp4/nvfp4.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOperation = "quantization";

void copy_key(Json& to, const char* as, const Json& from, const char* key) {
  if (const auto it = from.find(key); it != from.end() && !it->is_null()) to[as] = *it;
}

Json from_nested(const Json& file) {
  Json out = Json::object();
  out["quant_method"] = "modelopt";
  copy_key(out, "producer", file, "producer");
  const auto it = file.find("quantization");
  check(it != file.end() && it->is_object(), kOperation,
        "hf_quant_config.json: expected an object \"quantization\", found {}",
        it == file.end() ? "none" : it->dump());
  for (const char* key :
       {"quant_algo", "group_size", "kv_cache_quant_algo", "exclude_modules", "quantized_layers"})
    copy_key(out, key, *it, key);
  return out;
}

// group_size may stand at the top or in the first group's weights.
Json from_flat(const Json& config) {
  Json out = Json::object();
  for (const char* key :
       {"quant_method", "producer", "quant_algo", "format", "group_size", "quantized_layers"})
    copy_key(out, key, config, key);
  copy_key(out, "exclude_modules", config, "ignore");
  copy_key(out, "exclude_modules", config, "exclude_modules");
  if (const auto kv = config.find("kv_cache_scheme"); kv != config.end() && kv->is_object()) {
    const auto is = [&](const char* key, const Json& expected) {
      const auto it = kv->find(key);
      return it == kv->end() || it->is_null() || *it == expected;
    };
    const bool fp8 = kv->value("num_bits", Json()) == 8 && kv->value("type", Json()) == "float" &&
                     is("strategy", "tensor") && is("dynamic", false) && is("symmetric", true);
    check(fp8, kOperation,
          "kv_cache_scheme: expected FP8 (num_bits 8, type float) with one calibrated scale a "
          "layer, found {}",
          kv->dump());
    out["kv_cache_quant_algo"] = "FP8";
  } else {
    copy_key(out, "kv_cache_quant_algo", config, "kv_cache_scheme");
  }
  if (const auto groups = config.find("config_groups"); !out.contains("group_size") &&
                                                        groups != config.end() &&
                                                        groups->is_object() && !groups->empty()) {
    const Json& group = groups->begin().value();
    if (const auto weights = group.find("weights"); weights != group.end() && weights->is_object())
      copy_key(out, "group_size", *weights, "group_size");
  }
  return out;
}

std::string text_or_empty(const Json& json, const char* key) {
  const auto it = json.find(key);
  if (it == json.end()) return {};
  check(it->is_string(), kOperation, "expected a string under \"{}\", found {}", key, it->dump());
  return it->get<std::string>();
}

}  // namespace

Json normalised_quantization(const Json& hf_quant_config, const Json& quantization_config) {
  if (!hf_quant_config.is_null()) return from_nested(hf_quant_config);
  if (quantization_config.is_null()) return {};
  check(quantization_config.is_object(), kOperation,
        "config.json: expected an object \"quantization_config\"");
  return from_flat(quantization_config);
}

Quantization read_quantization(const Json& quantization) {
  Quantization q;
  if (quantization.is_null()) return q;
  q.method = text_or_empty(quantization, "quant_method");
  q.algo = text_or_empty(quantization, "quant_algo");
  if (q.algo.empty()) q.algo = q.method.empty() ? "unknown" : q.method;
  q.kv_cache_algo = text_or_empty(quantization, "kv_cache_quant_algo");
  if (const auto it = quantization.find("producer"); it != quantization.end() && it->is_object())
    q.producer = text_or_empty(*it, "name");
  if (const auto it = quantization.find("group_size"); it != quantization.end()) {
    check(it->is_number_integer() && *it >= 0 && *it <= INT32_MAX, kOperation,
          "expected a whole number under \"group_size\", found {}", it->dump());
    q.group_size = it->get<int>();
  }
  if (const auto it = quantization.find("exclude_modules"); it != quantization.end()) {
    check(it->is_array(), kOperation, "expected a list under \"exclude_modules\", found {}",
          it->dump());
    for (const Json& pattern : *it) {
      check(pattern.is_string(), kOperation, "exclude_modules: expected names, found {}",
            pattern.dump());
      q.excluded.push_back(pattern.get<std::string>());
    }
  }
  if (const auto it = quantization.find("quantized_layers"); it != quantization.end()) {
    check(it->is_object(), kOperation, "expected an object under \"quantized_layers\", found {}",
          it->dump());
    for (const auto& [layer, how] : it->items()) {
      check(how.is_object(), kOperation, "quantized_layers: {}: expected an object, found {}",
            layer, how.dump());
      q.layers[layer] = text_or_empty(how, "quant_algo");
    }
  }
  return q;
}

Json quantization_of(const Checkpoint& c, const std::map<std::string, std::string>& algos,
                     const std::string& method) {
  if (algos.empty()) return {};
  const std::string& first = algos.begin()->second;
  const bool uniform =
      std::all_of(algos.begin(), algos.end(), [&](const auto& a) { return a.second == first; });
  Json q = {{"quant_method", method},
            {"quant_algo", uniform ? first : "MIXED_PRECISION"},
            {"group_size", nvfp4::kBlock}};
  if (!uniform) {
    for (const auto& [linear, algo] : algos)
      q["quantized_layers"][linear] = {{"quant_algo", algo}, {"group_size", nvfp4::kBlock}};
    return q;
  }
  q["exclude_modules"] = Json::array();
  constexpr std::string_view kWeight = ".weight";
  for (const auto& [name, t] : c.tensors) {
    if (!name.ends_with(kWeight) || t.shape.size() < 2) continue;
    const std::string module = name.substr(0, name.size() - kWeight.size());
    if (!algos.contains(module)) q["exclude_modules"].push_back(module);
  }
  return q;
}

bool Quantization::excludes(const std::string& name) const {
  return std::any_of(excluded.begin(), excluded.end(), [&](const std::string& pattern) {
    if (pattern == name || ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0) return true;
    if (!pattern.ends_with('*')) return false;
    // "x.*", as consumers read it, is also x itself.
    return pattern.ends_with(".*") &&
           name == std::string_view(pattern).substr(0, pattern.size() - 2);
  });
}

std::string Quantization::algo_of(const std::string& name) const {
  if (algo == "MIXED_PRECISION") {
    // Unlisted layers are unquantised; an entry may also be the prefix of all experts.
    for (std::string key = name;;) {
      if (const auto it = layers.find(key); it != layers.end()) return it->second;
      const auto dot = key.rfind('.');
      if (dot == key.npos) return {};
      key.resize(dot);
    }
  }
  return excludes(name) ? std::string() : algo;
}

}  // namespace qad::checkpoint
