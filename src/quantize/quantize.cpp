// From weights and calibrated inputs to scales and shipped values.
#include "quantize/quantize.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"

namespace qad::quantize {
namespace {

// Rows a thread takes at least: some 64 thousand values.
std::int64_t grain(std::int64_t cols) {
  return std::max<std::int64_t>(1, 65536 / cols);
}

float largest(const at::Tensor& matrix, std::string_view name) {
  const std::int64_t rows = matrix.size(0), cols = matrix.size(1);
  const float* x = matrix.const_data_ptr<float>();
  return at::parallel_reduce(
      0, rows, grain(cols), 0.0f,
      [&](std::int64_t begin, std::int64_t end, float most) {
        const auto n = static_cast<std::size_t>((end - begin) * cols);
        return std::max(most, nvfp4::amax({x + begin * cols, n}, name));
      },
      [](float a, float b) { return std::max(a, b); });
}

void fake_quantize_rows(at::Tensor& matrix, const models::LinearQuant& quant) {
  const std::int64_t cols = matrix.size(1);
  float* x = matrix.mutable_data_ptr<float>();
  at::parallel_for(0, matrix.size(0), grain(cols), [&](std::int64_t begin, std::int64_t end) {
    nvfp4::fake_quantize(x + begin * cols, end - begin, cols, quant.weight_global,
                         quant.weight_rule, x + begin * cols);
  });
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

void shipped_value(const at::Tensor& master, models::LinearQuant* quant, nvfp4::GlobalScale rule,
                   at::Tensor& value) {
  const at::NoGradGuard no_grad;
  value.copy_(master.to(at::kBFloat16));
  if (!quant) return;
  check(value.is_contiguous() && value.scalar_type() == at::kFloat, "quantize",
        "expected a contiguous FP32 value");
  const float needed = nvfp4::global_scale(largest(value, "weight"), rule, quant->weight_rule);
  quant->weight_global = std::max(quant->weight_global, needed);
  fake_quantize_rows(value, *quant);
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
    shipped_value(p->value, quant == quant_of.end() ? nullptr : quant->second, policy.global,
                  p->value);
  }
}

std::vector<LayerError> weight_errors(const models::Model& original,
                                      const models::Model& quantized) {
  const auto before = models::linears(original), after = models::linears(quantized);
  check(before.size() == after.size(), "weight_errors",
        "expected two models of one configuration, found {} and {} linears", before.size(),
        after.size());
  std::vector<LayerError> out;
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (!after[i]->quant) continue;
    const at::Tensor w = before[i]->weight.value.detach().to(at::kBFloat16).to(at::kDouble);
    const at::Tensor error = w - after[i]->weight.value.detach();
    std::int64_t row = 0;
    for (const models::Part& part : before[i]->weight.parts) {
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
