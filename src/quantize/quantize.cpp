// From weights and calibrated inputs to scales and shipped values.
#include "quantize/quantize.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "ops/ship.h"
#include "quantize/gptq.h"

namespace qad::quantize {
namespace {

float input_scale(const Policy& policy, ops::Precision precision, const std::string& name,
                  std::size_t i, const std::vector<float>& input_amax) {
  check(i < input_amax.size(), "quantize",
        "{}: expected its calibrated input maximum, found {} maxima in all; calibrate first or "
        "quantise weights only",
        name, input_amax.size());
  const auto amax = static_cast<float>(input_amax[i] * policy.input_headroom);
  check(std::isfinite(amax) && amax > 0, "quantize",
        "{}: expected a positive input maximum, found {}; did calibration data reach it?", name,
        amax);
  return precision == ops::Precision::fp8 ? ops::fp8_scale(amax, policy.global)
                                          : nvfp4::global_scale(amax, policy.global, policy.inputs);
}

}  // namespace

void shipped_value(const std::string& name, const at::Tensor& master, models::LinearQuant* quant,
                   nvfp4::GlobalScale rule, at::Tensor& value) {
  const at::NoGradGuard no_grad;
  if (!quant) {
    value.copy_(master.to(at::kBFloat16));
    return;
  }
  check(master.const_data_ptr() != value.const_data_ptr(), "quantize",
        "{}: the master must be a copy, since the value is overwritten by its rounding", name);
  const at::Tensor global = at::full({}, quant->weight_global, value.options().dtype(at::kFloat));
  const at::Tensor from = master.to(at::kFloat), &scales = quant->weight_scales;
  const bool fp8 = quant->precision == ops::Precision::fp8;
  const auto amax =
      (fp8                ? ops::ship_fp8_(from, value, global, rule)
       : scales.defined() ? ops::ship_with_scales_(from, value, global, scales)
                          : ops::ship_(from, value, global, {}, quant->weight_rule, rule))
          .item<float>();
  check(std::isfinite(amax), "quantize", "{}: expected finite weights that {} can hold, found {}",
        name, ops::name_of(quant->precision), amax);
  quant->weight_global = global.item<float>();
}

void choose_quantised(models::Model& model, const Policy& policy,
                      const std::vector<float>& input_amax) {
  check_rules(model, policy);
  check(policy.input_headroom >= 1, "quantize",
        "input_headroom: expected at least 1 (below it inputs are clipped), found {}",
        policy.input_headroom);
  const auto linears = models::linears(model);
  const auto layers = static_cast<std::int64_t>(model.layers.size());
  // Everything is checked before anything changes.
  std::vector<std::unique_ptr<models::LinearQuant>> quants(linears.size());
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const models::Linear& l = *linears[i];
    const std::string name = linear_name(l.weight.parts.front());
    check(!l.quant, "quantize", "{}: expected an unquantised weight, found an {} one", name,
          l.quant ? ops::name_of(l.quant->precision) : "");
    const Verdict verdict = decide(policy, l, layers);
    if (!verdict.quantize) continue;
    quants[i] = std::make_unique<models::LinearQuant>();
    quants[i]->precision = verdict.precision;
    quants[i]->weight_rule = policy.weights;
    quants[i]->input_rule = policy.inputs;
    quants[i]->weight_global = 0;
    if (policy.activations)
      quants[i]->input_global = input_scale(policy, verdict.precision, name, i, input_amax);
  }

  for (std::size_t i = 0; i < linears.size(); ++i) linears[i]->quant = std::move(quants[i]);
}

void quantize(models::Model& model, const Policy& policy, const std::vector<float>& input_amax) {
  check(!policy.by_hessians(), "quantize",
        "weight_scales: hessian and rounding: gptq need calibration tokens, which are not here; "
        "choose max, mse or four_over_six, and nearest");
  choose_quantised(model, policy, input_amax);
  std::map<const models::Parameter*, models::LinearQuant*> quant_of;
  for (models::Linear* l : models::linears(model)) quant_of[&l->weight] = l->quant.get();
  for (models::Parameter* p : models::parameters(model)) {
    if (p->constant) continue;
    const auto quant = quant_of.find(p);
    const at::Tensor original = p->value;
    p->value = at::empty_like(original);
    shipped_value(p->parts.front().name, original,
                  quant == quant_of.end() ? nullptr : quant->second, policy.global, p->value);
  }
}

void quantize_cache(models::Model& model, nvfp4::GlobalScale rule,
                    const std::vector<CacheMaxima>& maxima) {
  check(maxima.size() == model.layers.size(), "quantize",
        "keys and values: expected the maxima of {} layers, found {}; calibrate first",
        model.layers.size(), maxima.size());
  const auto scale = [&](float amax, const std::string& name) {
    check(std::isfinite(amax), "quantize", "{}: expected finite keys and values, found {}", name,
          amax);
    return ops::fp8_scale(amax, rule);
  };
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    models::Layer& layer = model.layers[i];
    if (layer.attention)
      layer.attention->kv_scales = {scale(maxima[i].key, key_scale_name(layer)),
                                    scale(maxima[i].value, value_scale_name(layer))};
  }
}

void fix_scales(models::Model& model, const Policy& policy,
                const std::vector<at::Tensor>& masters) {
  const auto parameters = models::parameters(model);
  check(masters.size() == parameters.size(), "quantize", "expected {} masters, found {}",
        parameters.size(), masters.size());
  std::map<const models::Parameter*, at::Tensor> master_of;
  for (std::size_t i = 0; i < parameters.size(); ++i) master_of[parameters[i]] = masters[i];
  for (models::Linear* l : models::linears(model)) {
    if (!l->quant || l->quant->weight_scales.defined()) continue;
    if (l->quant->precision == ops::Precision::fp8) continue;  // it has no blocks
    Policy by_rule = policy;
    by_rule.hessian_scales = false;
    by_rule.weights = l->quant->weight_rule;
    const at::Tensor w =
        master_of.at(&l->weight).cpu().to(at::kBFloat16).to(at::kFloat).contiguous();
    l->quant->weight_scales =
        block_scales(w, {}, l->quant->weight_global, by_rule).to(model.placement.device);
  }
}

namespace {

// up down in double, part by part.
at::Tensor product_of(const models::LowRank& l) {
  std::vector<at::Tensor> parts;
  const std::int64_t rank = l.up.value.size(1);
  std::int64_t row = 0, at = 0;
  for (const models::Part& part : l.up.parts) {
    parts.push_back(at::matmul(l.up.value.detach().narrow(0, row, part.rows).to(at::kDouble),
                               l.down.value.detach().narrow(0, at, rank).to(at::kDouble)));
    row += part.rows;
    at += rank;
  }
  return at::cat(parts, 0);
}

}  // namespace

std::vector<LayerError> weight_errors(const models::Model& quantized,
                                      const std::vector<at::Tensor>& originals) {
  const auto all = models::parameters(quantized);
  check(all.size() == originals.size(), "weight_errors",
        "expected one original for each of {} parameters, found {}", all.size(), originals.size());
  std::map<const models::Parameter*, at::Tensor> original_of;
  for (std::size_t i = 0; i < all.size(); ++i) original_of[all[i]] = originals[i];
  std::vector<LayerError> out;
  for (const models::Linear* linear : models::linears(quantized)) {
    if (!linear->quant) continue;
    at::Tensor w = original_of.at(&linear->weight).detach().to(at::kBFloat16).to(at::kDouble);
    const at::Tensor error = w.sub(linear->weight.value.detach());
    if (linear->low_rank) w = w.add(product_of(*linear->low_rank));
    std::int64_t row = 0;
    for (const models::Part& part : linear->weight.parts) {
      const auto power = [&](const at::Tensor& t) {
        return t.narrow(0, row, part.rows).square().sum().item<double>();
      };
      out.push_back({linear_name(part), 10 * std::log10(power(w) / power(error))});
      row += part.rows;
    }
  }
  return out;
}

}  // namespace qad::quantize
