#include "checkpoint/compressed_tensors.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/dtype.h"
#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "nvfp4/nvfp4.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOpen = "open";

std::string without(const std::string& name, std::string_view suffix) {
  return name.substr(0, name.size() - suffix.size());
}

// --- reading ---

// Moves a tensor to another name; its bytes stay.
void rename(Checkpoint& c, const std::string& from, const std::string& to) {
  auto node = c.tensors.extract(from);
  node.key() = to;
  node.mapped().name = to;
  const bool moved = c.tensors.insert(std::move(node)).inserted;
  check(moved, kOpen, "{}: both {} and {} are there", c.path.string(), from, to);
}

// `from`, a divisor, as the multiplier `to`.
void invert(Checkpoint& c, const std::string& from, const std::string& to) {
  const Tensor divisor = c.tensors.at(from);
  check(divisor.shape.empty() || divisor.shape == std::vector{std::int64_t{1}}, kOpen,
        "{}: {}: expected one number, found {}", c.path.string(), from, shape_text(divisor.shape));
  Tensor t;
  t.name = to;
  t.stored_bytes = divisor.stored_bytes;
  t.read = std::make_shared<const std::function<void(float*)>>([divisor](float* out) {
    read_f32(divisor, out);
    *out = 1 / *out;
  });
  c.tensors.erase(from);
  check(c.tensors.emplace(to, std::move(t)).second, kOpen, "{}: both {} and {} are there",
        c.path.string(), from, to);
}

const Json& member(const Json& object, const char* key) {
  static const Json none;
  if (!object.is_object()) return none;
  const auto it = object.find(key);
  return it == object.end() ? none : *it;
}

bool is_nvfp4(const Json& operand) {
  return member(operand, "num_bits") == 4 && member(operand, "type") == "float" &&
         member(operand, "group_size") == nvfp4::kBlock;
}

// Whether any and whether all groups of NVFP4 weights quantise what they read.
struct Inputs {
  bool any = false, all = true;
};
Inputs nvfp4_inputs(const Checkpoint& c, const Json& config) {
  Inputs inputs;
  for (const auto& [name, group] : member(config, "config_groups").items()) {
    if (!is_nvfp4(member(group, "weights"))) continue;
    const Json& operand = member(group, "input_activations");
    inputs.any |= !operand.is_null();
    inputs.all &= !operand.is_null();
    const Json& dynamic = member(operand, "dynamic");
    check(operand.is_null() || (is_nvfp4(operand) && (dynamic == "local" || dynamic == false)),
          kOpen,
          "{}: config_groups.{}: expected NVFP4 inputs with a calibrated scale (\"dynamic\": "
          "\"local\") or none, found {}",
          c.path.string(), name, operand.dump());
  }
  inputs.all &= inputs.any;
  return inputs;
}

void adopt_cache_scales(Checkpoint& c) {
  std::vector<std::pair<std::string, std::string>> moves;
  for (const auto& [name, t] : c.tensors)
    for (const char which : {'k', 'v'}) {
      const std::string bare = fmt::format(".{}_scale", which),
                        ours = fmt::format(".{0}_proj.{0}_scale", which),
                        old = fmt::format(".{}_proj.output_scale", which);
      // Of the whole attention, whatever its architecture calls it.
      if (name.ends_with(bare) && !name.ends_with(ours))
        moves.emplace_back(name, without(name, bare) + ours);
      if (name.ends_with(old))
        moves.emplace_back(name, fmt::format("{0}.{1}_proj.{1}_scale", without(name, old), which));
    }
  for (const auto& [from, to] : moves) rename(c, from, to);
}

// --- writing ---

Json operand(int bits, const char* strategy, Json dynamic, const char* observer) {
  const bool nvfp4 = bits == 4;
  return {{"actorder", nullptr},
          {"block_structure", nullptr},
          {"dynamic", dynamic},
          {"group_size", nvfp4 ? Json(nvfp4::kBlock) : Json()},
          {"num_bits", bits},
          {"observer", observer == nullptr ? Json() : Json(observer)},
          {"observer_kwargs", Json::object()},
          {"scale_dtype", nvfp4 ? Json("torch.float8_e4m3fn") : Json()},
          {"strategy", strategy},
          {"symmetric", true},
          {"type", "float"},
          {"zp_dtype", nullptr}};
}

const char* format_of(const std::string& algo) {
  return algo.ends_with("NVFP4") ? "nvfp4-pack-quantized" : "float-quantized";
}

Json group_of(const std::string& algo, const Json& targets) {
  Json group;
  group["format"] = format_of(algo);
  if (algo == "NVFP4")
    group["input_activations"] = operand(4, "tensor_group", "local", "static_minmax");
  else if (algo == "W4A16_NVFP4")
    group["input_activations"] = nullptr;
  else if (algo == "FP8")
    group["input_activations"] = operand(8, "tensor", false, "static_minmax");
  else
    group["input_activations"] = operand(8, "token", true, nullptr);
  group["output_activations"] = nullptr;
  group["targets"] = targets;
  group["weights"] = algo.ends_with("NVFP4")
                         ? operand(4, "tensor_group", false, "memoryless_minmax")
                         : operand(8, algo == "FP8" ? "tensor" : "channel", false, "minmax");
  return group;
}

Json config_of(const OutModel& m) {
  std::map<std::string, std::vector<std::string>> linears_of;
  for (const OutWeight& w : m.weights)
    if (w.is_quantized()) {
      std::string algo = algo_of(w);
      // One scale without an input's is FP8 weights alone.
      if (algo == "FP8" && !w.fp8->input_scale) algo = "W8A16_FP8";
      linears_of[algo].push_back(w.linear());
    }
  const bool uniform = linears_of.size() == 1;
  std::vector<std::string> ignored = left_alone(m);
  std::sort(ignored.begin(), ignored.end());
  Json config;
  int i = 0;
  for (const auto& [algo, linears] : linears_of) {
    Json group = group_of(algo == "W8A16_FP8" ? "FP8" : algo,
                          uniform ? Json::array({"Linear"}) : Json(linears));
    if (algo == "W8A16_FP8") group["input_activations"] = nullptr;
    config["config_groups"][fmt::format("group_{}", i++)] = std::move(group);
  }
  config["format"] = uniform ? format_of(linears_of.begin()->first) : "mixed-precision";
  config["global_compression_ratio"] = nullptr;
  config["ignore"] = ignored;
  config["kv_cache_scheme"] =
      m.kv_cache_algo.empty() ? Json() : operand(8, "tensor", false, "static_minmax");
  config["quant_method"] = "compressed-tensors";
  config["quantization_status"] = "compressed";
  config["sparsity_config"] = Json::object();
  config["transform_config"] = Json::object();
  config["version"] = "0.20.0";
  return config;
}

float reciprocal(float scale, const std::string& name) {
  const float inverse = 1 / scale;
  check(std::isfinite(inverse) && inverse > 0, "write_compressed_tensors",
        "{}: the scale {} has no reciprocal in FP32", name, scale);
  return inverse;
}

// Scales that are reciprocals now, as far as they are known before writing.
struct Reciprocals {
  int all = 0, inexact = 0, unknown = 0;

  void count(float scale) {
    ++all;
    inexact += 1 / (1 / scale) != scale;
  }
  std::string text() const {
    const std::string rest =
        unknown == 0
            ? fmt::format("{} exactly, {} within a unit in the last place of FP32", all - inexact,
                          inexact)
            : "exactly where they are powers of two, else within a unit in the last place of FP32";
    return fmt::format(
        "{} scales of weights and inputs are stored as their reciprocals: {}; codes and block "
        "scales are unchanged",
        all + unknown, rest);
  }
};

}  // namespace

void adopt_compressed_tensors(Checkpoint& c, const Json& config) {
  if (member(config, "quant_method") != "compressed-tensors") return;
  const Json& transforms = member(config, "transform_config");
  check(transforms.empty() || member(transforms, "config_groups").empty(), kOpen,
        "{}: transform_config: models that are rotated as they run are not supported",
        c.path.string());
  std::vector<std::string> linears;
  for (const auto& [name, t] : c.tensors)
    if (name.ends_with(".weight_global_scale"))
      linears.push_back(without(name, ".weight_global_scale"));
  const Inputs inputs = nvfp4_inputs(c, config);
  std::map<std::string, std::string> algos;
  for (const std::string& linear : linears) {
    check(c.has(linear + ".weight_packed"), kOpen, "{}: {}.weight_packed is missing",
          c.path.string(), linear);
    rename(c, linear + ".weight_packed", linear + ".weight");
    invert(c, linear + ".weight_global_scale", linear + ".weight_scale_2");
    const bool scaled = c.has(linear + ".input_global_scale");
    check(scaled || !inputs.all, kOpen, "{}: {}.input_global_scale is missing", c.path.string(),
          linear);
    check(!scaled || inputs.any, kOpen,
          "{}: {}.input_global_scale is there, but no group of config_groups quantises inputs",
          c.path.string(), linear);
    if (scaled) invert(c, linear + ".input_global_scale", linear + ".input_scale");
    algos[linear] = scaled ? "NVFP4" : "W4A16_NVFP4";
  }
  for (const auto& [name, t] : c.tensors)
    if (t.dtype == DType::f8_e4m3 && name.ends_with(".weight")) {
      const std::string linear = without(name, ".weight");
      const auto scale = c.tensors.find(linear + ".weight_scale");
      const bool one = scale != c.tensors.end() && scale->second.elements() == 1;
      algos[linear] = one ? "FP8" : "FP8_PER_CHANNEL_PER_TOKEN";
    }
  adopt_cache_scales(c);
  const Json kv = c.quantization.value("kv_cache_quant_algo", Json());
  c.quantization = quantization_of(c, algos, "compressed-tensors");
  if (c.quantization.is_null()) c.quantization = {{"quant_method", "compressed-tensors"}};
  if (!kv.is_null()) c.quantization["kv_cache_quant_algo"] = kv;
}

OutFolder compressed_tensors_folder(const OutModel& m, std::vector<std::string>& changes) {
  refuse_low_rank(m, "compressed-tensors");
  OutFolder folder = bare_folder(m);
  Reciprocals reciprocals;
  bool any = false;
  for (const OutWeight& w : m.weights) {
    const std::string name = w.linear();
    any |= w.is_quantized();
    if (w.nvfp4) {
      append_codes_and_scales(folder.tensors, name + ".weight_packed", name + ".weight_scale",
                              w.shape[0], w.shape[1], w.nvfp4->fill);
      const std::string global = name + ".weight_global_scale",
                        input = name + ".input_global_scale";
      folder.tensors.push_back(late_scalar_tensor(
          global, {1}, [nvfp4 = *w.nvfp4, global] { return reciprocal(nvfp4.global(), global); }));
      if (w.nvfp4->late_global)
        ++reciprocals.unknown;
      else
        reciprocals.count(w.nvfp4->global_scale);
      if (const auto scale = w.nvfp4->input_scale) {
        folder.tensors.push_back(scalar_tensor(input, {1}, {reciprocal(*scale, input)}));
        reciprocals.count(*scale);
      }
    } else if (w.fp8) {
      append_fp8(folder.tensors, w, {{1}, true});
    } else {
      folder.tensors.push_back(plain_tensor(w));
    }
  }
  for (const auto& [name, scale] : m.kv_scales) {
    const bool key = name.ends_with(".k_scale");
    const std::string module = without(name, key ? ".k_proj.k_scale" : ".v_proj.v_scale");
    folder.tensors.push_back(scalar_tensor(module + (key ? ".k_scale" : ".v_scale"), {1}, {scale}));
  }
  if (any) folder.config["quantization_config"] = config_of(m);
  if (reciprocals.all + reciprocals.unknown > 0) changes.push_back(reciprocals.text());
  return folder;
}

}  // namespace qad::checkpoint
