#include "checkpoint/mlx.h"

#include <array>
#include <cmath>
#include <set>

#include "checkpoint/dtype.h"
#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "nvfp4/nvfp4.h"

namespace qad::checkpoint {
namespace {

// The linears that are all that reads a norm's output, in Llama, Mistral, Qwen2 and Qwen3.
struct Group {
  const char* norm;
  std::vector<const char*> linears;
};
const std::array kGroups = {
    Group{"input_layernorm.weight",
          {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"}},
    Group{"post_attention_layernorm.weight", {"mlp.gate_proj.weight", "mlp.up_proj.weight"}},
};

bool is_power_of_two(float x) {
  int exponent = 0;
  return std::frexp(x, &exponent) == 0.5f;
}

// By weight: the norm that takes its global scale. Norms and their factors.
struct Folding {
  std::set<std::string> folded;
  std::map<std::string, float> norms;
};

Folding fold(const OutModel& m) {
  Folding f;
  const std::string type = m.config.value("model_type", "");
  if (type != "llama" && type != "mistral" && type != "qwen2" && type != "qwen3") return f;
  std::map<std::string, const OutWeight*> weights;
  for (const OutWeight& w : m.weights) weights[w.name] = &w;
  for (const auto& [name, norm] : weights)
    for (const Group& group : kGroups) {
      if (!name.ends_with(group.norm) || norm->is_quantized()) continue;
      const std::string layer = name.substr(0, name.size() - std::string_view(group.norm).size());
      std::set<float> scales;
      bool all = true;
      for (const char* linear : group.linears) {
        const auto w = weights.find(layer + linear);
        all &= w != weights.end() && w->second->nvfp4.has_value();
        if (all) scales.insert(w->second->nvfp4->global_scale);
      }
      if (!all || scales.size() != 1 || !is_power_of_two(*scales.begin())) continue;
      f.norms[name] = *scales.begin();
      for (const char* linear : group.linears) f.folded.insert(layer + linear);
    }
  return f;
}

// mlx-lm knows the older spelling alone, and takes its own defaults for what it does not find.
void spell_rope(Json& config) {
  const auto found = config.find("rope_parameters");
  if (found == config.end() || !found->is_object()) return;
  Json rope = *found;
  if (const auto theta = rope.find("rope_theta"); theta != rope.end()) {
    if (!config.contains("rope_theta")) config["rope_theta"] = *theta;
    rope.erase("rope_theta");
  }
  if (rope.value("rope_type", Json("default")) != "default" && !config.contains("rope_scaling"))
    config["rope_scaling"] = rope;
}

OutTensor scaled(const OutWeight& norm, float factor) {
  OutTensor t = plain_tensor(norm);
  t.fill = [norm, factor](std::byte* out) {
    OutWeight product = norm;
    product.fill = [&](std::byte* bytes) {
      std::vector<float> x(static_cast<std::size_t>(*count_elements(norm.shape)));
      values_of(norm, x.data());
      for (float& value : x) value *= factor;
      std::memcpy(bytes, x.data(), x.size() * sizeof(float));
    };
    product.dtype = DType::f32;
    plain_tensor(product, norm.dtype).fill(out);
  };
  return t;
}

}  // namespace

void adopt_mlx(Checkpoint& c) {
  const auto quantization = c.config.find("quantization");
  if (quantization == c.config.end() || !quantization->is_object()) return;
  const Json mode = quantization->value("mode", Json("affine"));
  check(mode == "nvfp4" && quantization->value("group_size", Json()) == nvfp4::kBlock &&
            quantization->value("bits", Json()) == 4,
        "open", "{}: MLX's quantization {}: expected mode nvfp4 with 4 bits in groups of 16",
        c.path.string(), quantization->dump());
  std::map<std::string, std::string> algos;
  std::vector<std::string> linears;
  constexpr std::string_view kScales = ".scales";
  for (const auto& [name, t] : c.tensors)
    if (name.ends_with(kScales)) linears.push_back(name.substr(0, name.size() - kScales.size()));
  for (const std::string& linear : linears) {
    const auto weight = c.tensors.find(linear + ".weight");
    check(weight != c.tensors.end() && weight->second.dtype == DType::u32 &&
              weight->second.shape.size() == 2,
          "open", "{}: {}.scales: expected {}.weight U32 [rows, columns/8] beside it",
          c.path.string(), linear, linear);
    Tensor& codes = weight->second;
    check(codes.shape[1] <= INT64_MAX / 4, "open", "{}: {} is too wide", c.path.string(),
          codes.name);
    codes.dtype = DType::u8;
    codes.shape[1] *= 4;
    Tensor scales = c.tensors.at(linear + ".scales");
    check(scales.dtype == DType::u8, "open", "{}: {}: expected U8, found {}", c.path.string(),
          scales.name, name_of(scales.dtype));
    c.tensors.erase(scales.name);
    scales.name = linear + ".weight_scale";
    scales.dtype = DType::f8_e4m3;
    Tensor one;
    one.name = linear + ".weight_scale_2";
    one.read = std::make_shared<const std::function<void(float*)>>([](float* out) { *out = 1; });
    for (Tensor* t : {&scales, &one}) {
      const std::string name = t->name;
      check(c.tensors.emplace(name, std::move(*t)).second, "open", "{}: {} is there twice",
            c.path.string(), name);
    }
    algos[linear] = "W4A16_NVFP4";
  }
  c.quantization = quantization_of(c, algos, "mlx");
  c.config.erase("quantization");
}

OutFolder mlx_folder(const OutModel& m, std::vector<std::string>& changes) {
  refuse_low_rank(m, "mlx");
  for (const OutWeight& w : m.weights)
    check(!w.nvfp4 || !w.nvfp4->late_global, "write_mlx",
          "{}: global scales must be known before the norms are written", w.name);
  OutFolder folder = bare_folder(m);
  spell_rope(folder.config);
  const Folding folding = fold(m);
  Json modules = Json::object();
  std::int64_t kept = 0, decoded = 0, inputs = 0;
  for (const OutWeight& w : m.weights) {
    const std::string name = w.linear();
    if (const auto norm = folding.norms.find(w.name); norm != folding.norms.end()) {
      folder.tensors.push_back(scaled(w, norm->second));
    } else if (w.nvfp4 && (w.nvfp4->global_scale == 1 || folding.folded.contains(w.name))) {
      ++kept;
      inputs += w.nvfp4->input_scale.has_value();
      append_codes_and_scales(folder.tensors, w.name, name + ".scales", w.shape[0], w.shape[1],
                              w.nvfp4->fill);
      OutTensor& codes = folder.tensors[folder.tensors.size() - 2];
      OutTensor& scales = folder.tensors.back();
      check(codes.shape[1] % 4 == 0, "write_mlx", "{}: expected columns in groups of 16", w.name);
      codes.dtype = DType::u32;
      codes.shape[1] /= 4;
      scales.dtype = DType::u8;
    } else {
      decoded += w.is_quantized();
      folder.tensors.push_back(plain_tensor(w));
      if (w.shape.size() > 1 && w.name.ends_with(".weight")) modules[name] = false;
    }
  }
  if (kept + decoded == 0) return folder;
  check(kept > 0, "write_mlx",
        "MLX has no global scales, and none of this model's is a power of two that a norm can "
        "take; quantise it with --global-scale pow2");
  Json quantization = {{"group_size", nvfp4::kBlock}, {"bits", 4}, {"mode", "nvfp4"}};
  quantization.update(modules);
  folder.config["quantization"] = quantization;
  folder.config["quantization_config"] = quantization;
  changes.push_back(fmt::format(
      "{} NVFP4 weights keep their codes and block scales; their global scales are now factors of "
      "{} norms before them, exactly",
      kept, folding.norms.size()));
  if (decoded > 0)
    changes.push_back(fmt::format(
        "{} quantised weights are BF16 values, because MLX has no global scale and no norm can "
        "take theirs",
        decoded));
  if (inputs > 0 || !m.kv_cache_algo.empty())
    changes.emplace_back(
        "scales of inputs and of a cache are dropped: MLX quantises weights alone");
  return folder;
}

}  // namespace qad::checkpoint
