#include "models/verify.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>

#include "checkpoint/dtype.h"
#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"

namespace qad::models {
namespace {

using checkpoint::Checkpoint;
using checkpoint::shape_text;
using checkpoint::Tensor;

constexpr std::string_view kHead = "lm_head.weight";

bool is_plain_float(const Tensor& t) {
  using checkpoint::DType;
  return t.dtype == DType::f32 || t.dtype == DType::f16 || t.dtype == DType::bf16 ||
         t.dtype == DType::f64;
}

// Buffers that old Transformers versions saved; they follow from config.json.
bool is_ignored(const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq");
}

class Check {
 public:
  Check(const Model& model, const Checkpoint& c) : model_(model), c_(c) {}

  std::vector<std::string> run() {
    std::set<const Parameter*> weights;
    for (const Linear* l : linears(model_)) {
      weights.insert(&l->weight);
      linear(*l);
    }
    for (const Layer& layer : model_.layers)
      if (layer.experts) experts(*layer.experts);
    for (const Parameter* p : parameters(model_))
      if (!weights.contains(p))
        for (const Part& part : p->parts) plain(part, *p);
    for (const Layer& layer : model_.layers)
      if (layer.attention)
        expected_.merge(std::set{key_scale_name(layer), value_scale_name(layer)});
    for (const auto& [name, tensor] : c_.tensors)
      if (!expected_.contains(name) && !is_ignored(name) && !(name == kHead && model_.config.tied))
        report("{}: not part of a {} with this config.json, found {} {}", name,
               model_.config.architecture, name_of(tensor.dtype), shape_text(tensor.shape));
    return std::move(found_);
  }

 private:
  template <class... Args>
  void report(fmt::format_string<Args...> format, Args&&... args) {
    found_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  void plain(const Part& part, const Parameter& p) {
    expected_.insert(part.name);
    std::vector<std::int64_t> shape = p.value.sizes().vec();
    shape[0] = part.rows;
    const auto it = c_.tensors.find(part.name);
    if (it == c_.tensors.end()) {
      report("{}: expected {} from config.json, found no such tensor", part.name,
             shape_text(shape));
    } else if (it->second.shape != shape) {
      report("{}: expected {} from config.json, found {}; is config.json from this checkpoint?",
             part.name, shape_text(shape), shape_text(it->second.shape));
    } else if (!is_plain_float(it->second)) {
      report("{}: expected F32, F16 or BF16, found {}", part.name, name_of(it->second.dtype));
    }
  }

  void linear(const Linear& l) {
    std::optional<checkpoint::Nvfp4Weight> first;
    bool mixed = false, scales = false;
    for (std::size_t i = 0; i < l.weight.parts.size(); ++i) {
      const Part& part = l.weight.parts[i];
      const auto found = quantized(part, l.weight);
      if (i == 0) first = found;
      mixed |= found.has_value() != first.has_value();
      scales |= found && first && !shared(*first, *found);
      if (!found) plain(part, l.weight);
    }
    if (mixed)
      report(
          "{}: expected all or none of the matrices that read the same input in NVFP4, found a "
          "mixture",
          l.weight.parts.front().name);
    if (scales)
      report(
          "{}: expected one weight_scale_2 and one input_scale for the matrices that read the "
          "same input, found several; engines that fuse them would compute something else",
          l.weight.parts.front().name);
  }

  // Serving engines compute all experts of a layer in one kernel.
  void experts(const Experts& e) {
    const auto nvfp4 = [&](const Linear& l) {
      const auto it = c_.tensors.find(l.weight.parts.front().name);
      return it != c_.tensors.end() && !is_plain_float(it->second);
    };
    const Linear& first = e.routed.front().gate_up;
    for (const Mlp& expert : e.routed)
      for (const Linear* l : {&expert.gate_up, &expert.down})
        if (c_.has(l->weight.parts.front().name) && nvfp4(*l) != nvfp4(first))
          return report(
              "layer {}: expected all or none of its experts in NVFP4, found {} and {} to differ",
              first.layer, first.weight.parts.front().name, l->weight.parts.front().name);
  }

  static bool shared(const checkpoint::Nvfp4Weight& a, const checkpoint::Nvfp4Weight& b) {
    const auto bits = [](std::optional<float> x) {
      return x ? std::optional(std::bit_cast<std::uint32_t>(*x)) : std::nullopt;
    };
    return bits(a.global_scale) == bits(b.global_scale) &&
           bits(a.input_scale) == bits(b.input_scale);
  }

  std::optional<checkpoint::Nvfp4Weight> quantized(const Part& part, const Parameter& p) {
    if (!c_.has(part.name)) return std::nullopt;  // plain() says it
    const std::string name = linear_name(part);
    try {
      auto w = find_nvfp4(c_, name);
      if (!w) return w;
      for (const char* suffix : {".weight", ".weight_scale", ".weight_scale_2", ".input_scale"})
        expected_.insert(name + suffix);
      if (w->rows != part.rows || w->cols != p.value.size(1))
        report("{}: expected an NVFP4 matrix {} from config.json, found [{}, {}]", part.name,
               shape_text(std::vector{part.rows, p.value.size(1)}), w->rows, w->cols);
      return w;
    } catch (const Error& e) {
      found_.push_back(e.what());
      return std::nullopt;
    }
  }

  const Model& model_;
  const Checkpoint& c_;
  std::set<std::string> expected_;
  std::vector<std::string> found_;
};

}  // namespace

std::vector<std::string> structural_problems(const Model& model, const Checkpoint& c) {
  return Check(model, c).run();
}

std::string read_finite(const Tensor& t, float* out) {
  read_f32(t, out);
  const std::int64_t n = t.elements();
  // Branch-free, so that it runs at the speed of memory: x * 0 is 0 unless x is infinite or NaN.
  constexpr std::int64_t kChunk = 4096;
  for (std::int64_t begin = 0; begin < n; begin += kChunk) {
    const std::int64_t end = std::min(n, begin + kChunk);
    bool bad = false;
    for (std::int64_t i = begin; i < end; ++i) bad |= !(out[i] * 0.0f == 0.0f);
    if (!bad) continue;
    const float* at =
        std::find_if(out + begin, out + end, [](float x) { return !std::isfinite(x); });
    return fmt::format("{}: expected finite values, found {} at element {} of {}", t.name, *at,
                       at - out, n);
  }
  return {};
}

std::string tied_head_problem(const Model& model, const Checkpoint& c) {
  const std::string name(kHead);
  if (!model.config.tied || !c.has(name)) return {};
  const Tensor &head = c.at(name), &embedding = c.at(model.embedding.parts[0].name);
  const auto values = [](const Tensor& t) {
    std::vector<float> v(static_cast<std::size_t>(t.elements()));
    read_f32(t, v.data());
    return v;
  };
  if (is_plain_float(head) && head.shape == embedding.shape && values(head) == values(embedding))
    return {};
  return fmt::format("{}: tie_word_embeddings is true, but this tensor is not {}", name,
                     embedding.name);
}

namespace {

// Engines take 1 for a scale that is missing, and no scale where nothing says that there is a
// cache to be scaled.
void check_cache_scales(const Model& model, const Checkpoint& c, std::vector<std::string>& found) {
  const std::string algo = checkpoint::read_quantization(c.quantization).kv_cache_algo;
  for (const Layer& layer : model.layers) {
    if (!layer.attention) continue;
    const std::string names[] = {key_scale_name(layer), value_scale_name(layer)};
    if (c.has(names[0]) != c.has(names[1]))
      found.push_back(fmt::format("{}: expected {} beside it, found none",
                                  c.has(names[0]) ? names[0] : names[1],
                                  c.has(names[0]) ? names[1] : names[0]));
    for (const std::string& name : names) {
      if (!c.has(name)) continue;
      const Tensor& t = c.at(name);
      float scale = 0;
      if (t.elements() == 1) read_f32(t, &scale);
      if (!(scale > 0 && std::isfinite(scale)))
        found.push_back(fmt::format("{}: expected one positive number, found {} of shape {}", name,
                                    scale, shape_text(t.shape)));
      if (algo.empty())
        found.push_back(fmt::format(
            "{}: is there, but nothing says that keys and values are FP8: kv_cache_quant_algo or "
            "kv_cache_scheme",
            name));
    }
  }
}

}  // namespace

std::vector<std::string> problems(const Checkpoint& c) {
  std::vector<std::string> found;
  try {
    const Model model = shape_of(c);
    found = structural_problems(model, c);
    if (!found.empty()) return found;
    check_cache_scales(model, c, found);
    if (auto tied = tied_head_problem(model, c); !tied.empty()) found.push_back(std::move(tied));
    std::vector<float> values;
    for (const auto& [name, tensor] : c.tensors) {
      if (!is_plain_float(tensor)) continue;
      values.resize(static_cast<std::size_t>(tensor.elements()));
      if (auto bad = read_finite(tensor, values.data()); !bad.empty())
        found.push_back(std::move(bad));
    }
  } catch (const std::exception& e) {  // a report says what stopped it
    found.push_back(e.what());
  }
  return found;
}

}  // namespace qad::models
