// From weights and calibrated inputs to scales and shipped values.
#include "quantize/quantize.h"

#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"

namespace qad::quantize {
namespace {

// Rows a thread takes at a time: few enough to stay in its cache between the passes over them.
std::int64_t rows_at_a_time(std::int64_t cols) {
  return std::max<std::int64_t>(1, 32768 / cols);
}

// value = fake quantisation of bf16(master) under quant.weight_global, in one walk through memory.
// Returns the largest magnitude of bf16(master).
float ship_rows(const std::string& name, const float* master, const models::LinearQuant& quant,
                std::int64_t rows, std::int64_t cols, float* value) {
  const std::int64_t step = rows_at_a_time(cols);
  return at::parallel_reduce(
      0, (rows + step - 1) / step, 1, 0.0f,
      [&](std::int64_t begin, std::int64_t end, float most) {
        for (std::int64_t row = begin * step; row < std::min(end * step, rows); row += step) {
          const std::int64_t some = std::min(step, rows - row);
          const auto n = static_cast<std::size_t>(some * cols);
          const float* from = master + row * cols;
          float* to = value + row * cols;
          std::transform(from, from + n, to, nvfp4::round_to_bf16);
          most = std::max(most, nvfp4::amax({to, n}, name));
          if (quant.weight_global > 0)
            nvfp4::fake_quantize(to, some, cols, quant.weight_global, quant.weight_rule, to);
        }
        return most;
      },
      [](float a, float b) { return std::max(a, b); });
}

float input_scale(const Policy& policy, const std::string& name, std::size_t i,
                  const std::vector<float>& input_amax) {
  check(i < input_amax.size(), "quantize",
        "{}: expected its calibrated input maximum, found {} maxima in all; calibrate first or "
        "quantise weights only",
        name, input_amax.size());
  const auto amax = static_cast<float>(input_amax[i] * policy.input_headroom);
  check(std::isfinite(amax) && amax > 0, "quantize",
        "{}: expected a positive input maximum, found {}; did calibration data reach it?", name,
        amax);
  return nvfp4::global_scale(amax, policy.global, policy.inputs);
}

}  // namespace

void shipped_value(const std::string& name, const at::Tensor& master, models::LinearQuant* quant,
                   nvfp4::GlobalScale rule, at::Tensor& value) {
  const at::NoGradGuard no_grad;
  if (!quant) {
    value.copy_(master.to(at::kBFloat16));
    return;
  }
  check(value.is_contiguous() && value.scalar_type() == at::kFloat && master.is_contiguous() &&
            master.scalar_type() == at::kFloat && value.dim() == 2,
        "quantize", "{}: expected a contiguous FP32 matrix as master and as value", name);
  check(master.const_data_ptr() != value.const_data_ptr(), "quantize",
        "{}: the master must be a copy, since the value is overwritten by its rounding", name);
  const auto ship = [&] {
    return ship_rows(name, master.const_data_ptr<float>(), *quant, value.size(0), value.size(1),
                     value.mutable_data_ptr<float>());
  };
  const float needed = nvfp4::global_scale(ship(), rule, quant->weight_rule);
  if (needed <= quant->weight_global) return;
  quant->weight_global = needed;  // seldom: a weight outgrew the scale, so the walk is made again
  ship();
}

void quantize(models::Model& model, const Policy& policy, const std::vector<float>& input_amax) {
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
    check(!l.quant, "quantize", "{}: expected an unquantised weight, found an NVFP4 one", name);
    if (!decide(policy, l, layers).quantize) continue;
    quants[i] = std::make_unique<models::LinearQuant>();
    quants[i]->weight_rule = policy.weights;
    quants[i]->input_rule = policy.inputs;
    quants[i]->weight_global = 0;  // shipped_value raises it
    if (policy.activations) quants[i]->input_global = input_scale(policy, name, i, input_amax);
  }

  std::map<const models::Parameter*, models::LinearQuant*> quant_of;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    linears[i]->quant = std::move(quants[i]);
    quant_of[&linears[i]->weight] = linears[i]->quant.get();
  }
  for (models::Parameter* p : models::parameters(model)) {
    const auto quant = quant_of.find(p);
    const at::Tensor original = p->value;
    p->value = at::empty_like(original);
    shipped_value(p->parts.front().name, original,
                  quant == quant_of.end() ? nullptr : quant->second, policy.global, p->value);
  }
}

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
    const at::Tensor w = original_of.at(&linear->weight).detach().to(at::kBFloat16).to(at::kDouble);
    const at::Tensor error = w.sub(linear->weight.value.detach());
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
