// The walk through the layers that models in memory and on disk share.
#include "quantize/by_hessians.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "nvfp4/global_scale.h"
#include "ops/ops.h"
#include "quantize/gptq.h"
#include "quantize/loaded.h"

namespace qad::quantize {
namespace {

using Streams = std::vector<at::Tensor>;

// X^T X of a linear: whole, or its blocks on the diagonal, which are all that block scales want.
struct Moments {
  at::Tensor sum;
  std::int64_t tokens = 0;
};

at::Tensor diagonal_of(const at::Tensor& sum) {
  return sum.dim() == 2 ? sum.diagonal() : sum.diagonal(0, 1, 2);
}

class Walk {
 public:
  Walk(models::Model& model, const Policy& policy, const std::vector<models::Tokens>& batches)
      : model_(model), policy_(policy), batches_(batches) {
    check(!batches.empty(), "quantize",
          "weight_scales: hessian and rounding: gptq need calibration data; none was given");
    for (const models::Layer& layer : model.layers)
      if (layer.experts)
        for (const models::Mlp& expert : layer.experts->routed)
          for (const models::Linear* l : {&expert.gate_up, &expert.down}) routed_[l] = &layer;
  }

  Streams embedded() const {
    Streams streams;
    for (const models::Tokens& batch : batches_) streams.push_back(models::embed(model_, batch));
    return streams;
  }

  // Calls take(linear, rounded) for each quantised linear of the layer, which leaves in its value
  // what is shipped; `streams` then leave the layer.
  template <class Take>
  void layer(std::size_t i, Streams& streams, Take&& take) {
    for (std::size_t b = 0; b < batches_.size(); ++b)
      models::forward_layer(model_, i, batches_[b], streams[b], observer());
    for (models::Linear* l : models::linears(model_))
      if (l->layer == static_cast<int>(i) && l->quant) take(*l, round(*l));
    moments_.clear();
    for (std::size_t b = 0; b < batches_.size(); ++b)
      streams[b] = models::forward_layer(model_, i, batches_[b], streams[b]);
  }
  // The same of the head, which nothing follows.
  template <class Take>
  void head(const Streams& streams, Take&& take) {
    for (const at::Tensor& stream : streams)
      observe(*model_.head, models::final_norm(model_, stream));
    take(*model_.head, round(*model_.head));
  }

  std::vector<UnreachedExperts> plain() {
    std::vector<UnreachedExperts> all;
    for (auto& [layer, experts] : plain_) {
      std::sort(experts.begin(), experts.end());
      experts.erase(std::unique(experts.begin(), experts.end()), experts.end());
      all.push_back(
          {layer->experts->routed.front().gate_up.layer, experts, layer->experts->routed.size()});
    }
    std::sort(all.begin(), all.end(),
              [](const auto& a, const auto& b) { return a.layer < b.layer; });
    return all;
  }

 private:
  models::Observer observer() {
    return [this](const models::Linear& l, const at::Tensor& input) { observe(l, input); };
  }

  void observe(const models::Linear& l, const at::Tensor& input) {
    if (!l.quant || l.quant->precision == ops::Precision::fp8) return;
    at::Tensor x = input.contiguous();
    if (l.quant->input_global)
      x = ops::fake_quantize(x, {*l.quant->input_global, l.quant->input_rule,
                                 at::zeros({}, x.options().dtype(at::kLong))});
    x = x.to(at::kFloat);
    Moments& m = moments_[&l];
    m.tokens += x.size(0);
    const std::int64_t cols = x.size(1), blocks = cols / nvfp4::kBlock;
    if (policy_.rounding == Rounding::gptq) {
      if (!m.sum.defined()) m.sum = at::zeros({cols, cols}, x.options());
      m.sum.addmm_(x.t(), x);
    } else {
      if (!m.sum.defined()) m.sum = at::zeros({blocks, nvfp4::kBlock, nvfp4::kBlock}, x.options());
      const at::Tensor of_block = x.view({x.size(0), blocks, nvfp4::kBlock}).permute({1, 0, 2});
      m.sum.baddbmm_(of_block.transpose(1, 2), of_block);
    }
  }

  // The linear's weight as its scales and master, and in its quant what they are under; without
  // scales where tokens are too few for a H.
  Rounded round(models::Linear& l) {
    const std::string name = linear_name(l.weight.parts.front());
    const at::Tensor w =
        l.weight.value.detach().cpu().to(at::kBFloat16).to(at::kFloat).contiguous();
    // FP8 has no blocks to choose scales for, and is rounded to nearest.
    if (l.quant->precision == ops::Precision::fp8) return {w, {}};
    const std::span values(w.const_data_ptr<float>(), static_cast<std::size_t>(w.numel()));
    const float amax = nvfp4::amax(values, name);
    const float global = nvfp4::global_scale(amax, policy_.global, policy_.weights);
    check(nvfp4::scale_fits(global), "quantize",
          "{}: expected weights that NVFP4 can hold, found {} as the largest", name, amax);
    l.quant->weight_global = global;
    Moments m = moments_[&l];
    moments_.erase(&l);
    if (m.sum.defined()) m.sum = m.sum.cpu();
    const bool gptq = policy_.rounding == Rounding::gptq;
    const std::int64_t needed = gptq ? w.size(1) : nvfp4::kBlock;
    // Of the inputs' squares; an expert's may all be 0, as if it had seen nothing.
    const float mean = m.sum.defined() ? diagonal_of(m.sum).mean().item<float>() : 0;
    check(std::isfinite(mean), "quantize",
          "input of {}: expected finite values, found squares of {}", name, mean);
    if (m.tokens < needed || mean == 0) {
      const auto routed = routed_.find(&l);
      check(routed != routed_.end() || mean > 0 || m.tokens < needed, "quantize",
            "input of {}: expected values other than 0; calibrate on other data", name);
      check(routed != routed_.end(), "quantize",
            "{}: expected at least {} calibration tokens (its columns, or 16 for block scales "
            "alone), found {}; calibrate on more (calibration.sequences)",
            name, needed, m.tokens);
      const auto& experts = routed->second->experts->routed;
      for (std::size_t e = 0; e < experts.size(); ++e)
        if (&experts[e].gate_up == &l || &experts[e].down == &l)
          plain_[routed->second].push_back(e);
      return {w, {}};
    }
    const at::Tensor blocks = !policy_.hessian_scales ? at::Tensor()
                              : gptq                  ? diagonal_blocks(m.sum)
                                                      : m.sum;
    const at::Tensor scales = block_scales(w, blocks, global, policy_);
    return gptq ? quantize::gptq(w, m.sum, global, scales) : Rounded{w, scales};
  }

  models::Model& model_;
  const Policy& policy_;
  const std::vector<models::Tokens>& batches_;
  std::map<const models::Linear*, Moments> moments_;
  std::map<const models::Linear*, const models::Layer*> routed_;
  std::map<const models::Layer*, std::vector<std::size_t>> plain_;
};

std::map<const models::Parameter*, models::Linear*> linears_by_weight(models::Model& model) {
  std::map<const models::Parameter*, models::Linear*> all;
  for (models::Linear* l : models::linears(model)) all[&l->weight] = l;
  return all;
}

// The value that is shipped of what stays unquantised; `linear_of` as above.
void ship_plain(const std::map<const models::Parameter*, models::Linear*>& linear_of,
                const std::vector<models::Parameter*>& which) {
  for (models::Parameter* p : which) {
    const auto l = linear_of.find(p);
    if (p->constant || (l != linear_of.end() && l->second->quant)) continue;
    const at::Tensor original = p->value;
    p->value = at::empty_like(original);
    shipped_value(p->parts.front().name, original, nullptr, {}, p->value);
  }
}

// Sets the linear's scales, and its value to what is shipped.
void ship(models::Linear& l, const Rounded& rounded, const Policy& policy) {
  const at::Device device = l.weight.value.device();
  l.quant->weight_scales = rounded.scales.defined() ? rounded.scales.to(device) : at::Tensor();
  l.weight.value = at::empty_like(l.weight.value);
  shipped_value(linear_name(l.weight.parts.front()), rounded.master.to(device), l.quant.get(),
                policy.global, l.weight.value);
}

}  // namespace

double hessian_bytes(const models::Model& model, const Policy& policy) {
  std::map<int, double> of_layer;
  for (const models::Linear* l : models::linears(model)) {
    const Verdict v = decide(policy, *l, static_cast<std::int64_t>(model.layers.size()));
    if (!v.quantize || v.precision == ops::Precision::fp8) continue;
    const auto cols = static_cast<double>(l->weight.value.size(1));
    of_layer[l->layer] +=
        sizeof(float) * cols * (policy.rounding == Rounding::gptq ? cols : nvfp4::kBlock);
  }
  double most = 0;
  for (const auto& [layer, bytes] : of_layer) most = std::max(most, bytes);
  return most;
}

ByHessians quantize_by_hessians(models::Model& model, const Policy& policy,
                                const std::vector<float>& input_amax,
                                const std::vector<models::Tokens>& batches,
                                const std::function<void(std::size_t layers)>& progress) {
  const at::NoGradGuard no_grad;
  Walk walk(model, policy, batches);
  choose_quantised(model, policy, input_amax);
  const auto parameters = models::parameters(model);
  ByHessians out;
  std::map<const models::Parameter*, at::Tensor*> master_of;
  for (const models::Parameter* p : parameters) out.masters.push_back(p->value);
  for (std::size_t i = 0; i < parameters.size(); ++i) master_of[parameters[i]] = &out.masters[i];
  ship_plain(linears_by_weight(model), parameters);
  const auto take = [&](models::Linear& l, const Rounded& rounded) {
    *master_of.at(&l.weight) = rounded.master;
    ship(l, rounded, policy);
  };
  Streams streams = walk.embedded();
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    walk.layer(i, streams, take);
    if (progress) progress(i + 1);
  }
  if (model.head && model.head->quant) walk.head(streams, take);
  out.plain = walk.plain();
  return out;
}

CodesByHessians quantize_by_hessians(const checkpoint::Checkpoint& source, models::Model& model,
                                     const Policy& policy,
                                     const std::vector<models::Tokens>& batches,
                                     const std::function<void(std::size_t layers)>& progress) {
  const at::NoGradGuard no_grad;
  check(!model.placement.packs_weights, "quantize", "expected a model whose weights are unpacked");
  Walk walk(model, policy, batches);
  const auto linear_of = linears_by_weight(model);
  const auto load = [&](std::vector<models::Parameter*> which) {
    auto loaded = std::make_unique<Loaded>(source, model, which);
    ship_plain(linear_of, which);
    return loaded;
  };
  CodesByHessians out;
  const auto take = [&](models::Linear& l, const Rounded& rounded) {
    ship(l, rounded, policy);
    if (!rounded.scales.defined()) return;
    const std::int64_t rows = rounded.master.size(0), cols = rounded.master.size(1);
    PackedCodes& packed = out.weights[&l.weight];
    packed = {at::empty({rows, cols / 2}, at::kByte), rounded.scales, l.quant->weight_global};
    nvfp4::quantize_with_scales(rounded.master.const_data_ptr<float>(), rows, cols, packed.global,
                                packed.scales.const_data_ptr<std::uint8_t>(),
                                packed.codes.data_ptr<std::uint8_t>());
  };
  Streams streams;
  {
    const auto embedding = load({&model.embedding});
    streams = walk.embedded();
  }
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const auto layer = load(models::parameters(model.layers[i]));
    walk.layer(i, streams, take);
    if (progress) progress(i + 1);
  }
  if (model.head && model.head->quant) {
    const auto norm = load({&model.final_norm, &model.head->weight});
    walk.head(streams, take);
  }
  out.plain = walk.plain();
  return out;
}

}  // namespace qad::quantize
