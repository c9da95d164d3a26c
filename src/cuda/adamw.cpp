// AdamW and the gradient norm on CUDA: checks and registration.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "cuda/tensor.h"
#include "ops/optimizer_checks.h"

namespace qad::cuda {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

float* floats_at(const Optional& t) {
  return t && t->defined() ? t->mutable_data_ptr<float>() : nullptr;
}

// Checked; `grad` is contiguous.
AdamWTensor tensor_of(const ops::AdamWStep& step, const Tensor& master, const Optional& low,
                      const Tensor& grad, const Tensor& m, const Tensor& v,
                      const Optional& m_scales, const Optional& v_scales, float* amax) {
  const auto kind = m.scalar_type() == at::kByte    ? Moments::coded
                    : m.scalar_type() == at::kFloat ? Moments::f32
                                                    : Moments::bf16;
  return {
      step,
      type_of(grad, "adamw", "grad"),
      grad.const_data_ptr(),
      {master.mutable_data_ptr(),
       low && low->defined() ? low->mutable_data_ptr<std::int16_t>() : nullptr},
      {kind, m.mutable_data_ptr(), v.mutable_data_ptr(), floats_at(m_scales), floats_at(v_scales)},
      master.numel(),
      reinterpret_cast<std::uint32_t*>(amax)};
}

Tensor adamw_list_cuda(at::TensorList masters, at::TensorList lows, at::TensorList grads,
                       at::TensorList m, at::TensorList v, at::TensorList m_scales,
                       at::TensorList v_scales, const Optional& factor, double learning_rate,
                       double beta1, double beta2, double epsilon,
                       at::ArrayRef<double> weight_decays, std::int64_t step,
                       at::IntArrayRef seeds) {
  ops::check_adamw_list(masters, lows, grads, m, v, m_scales, v_scales, weight_decays, seeds);
  const bool coded = !m_scales.empty();
  const Tensor amax = at::zeros({static_cast<std::int64_t>(masters.size())},
                                masters[0].options().dtype(at::kFloat));
  std::vector<Tensor> whole;  // alive until the kernels that read them are in the stream
  std::vector<AdamWTensor> tensors;
  for (std::size_t i = 0; i < masters.size(); ++i) {
    const Optional low = lows.empty() ? Optional() : lows[i];
    check(masters[i].device() == masters[0].device(), "adamw",
          "master {}: expected it on {}, found {}", i, masters[0].device().str(),
          describe(masters[i]));
    ops::check_adamw(masters[i], low, grads[i], factor, step);
    if (coded) {
      ops::check_moment8(m[i], m_scales[i], masters[i], "m");
      ops::check_moment8(v[i], v_scales[i], masters[i], "v");
    } else {
      ops::check_moments(m[i], v[i], masters[i]);
    }
    tensors.push_back(
        tensor_of(ops::adamw_step(learning_rate, beta1, beta2, epsilon, weight_decays[i], step,
                                  static_cast<std::uint64_t>(seeds[i])),
                  masters[i], low, whole.emplace_back(grads[i].contiguous()), m[i], v[i],
                  coded ? m_scales[i] : Optional(), coded ? v_scales[i] : Optional(),
                  amax.mutable_data_ptr<float>() + i));
  }
  const Launch launch(masters[0], "adamw");
  adamw(tensors, factor && factor->defined() ? factor->const_data_ptr<float>() : nullptr,
        launch.stream());
  launch.done(masters[0], whole[0]);
  return amax;
}

// Of one tensor: a list of it.
Tensor adamw_cuda(const Tensor& master, const Optional& low, const Tensor& grad, const Tensor& m,
                  const Tensor& v, const Optional& factor, double learning_rate, double beta1,
                  double beta2, double epsilon, double weight_decay, std::int64_t step,
                  std::int64_t seed) {
  return adamw_list_cuda(master, low && low->defined() ? at::TensorList(*low) : at::TensorList(),
                         grad, m, v, {}, {}, factor, learning_rate, beta1, beta2, epsilon,
                         weight_decay, step, seed)
      .select(0, 0);
}

Tensor adamw8_cuda(const Tensor& master, const Optional& low, const Tensor& grad,
                   const Tensor& m_codes, const Tensor& m_scales, const Tensor& v_codes,
                   const Tensor& v_scales, const Optional& factor, double learning_rate,
                   double beta1, double beta2, double epsilon, double weight_decay,
                   std::int64_t step, std::int64_t seed) {
  return adamw_list_cuda(master, low && low->defined() ? at::TensorList(*low) : at::TensorList(),
                         grad, m_codes, v_codes, m_scales, v_scales, factor, learning_rate, beta1,
                         beta2, epsilon, weight_decay, step, seed)
      .select(0, 0);
}

Tensor gradient_norm_cuda(at::TensorList grads) {
  std::vector<Tensor> whole;  // alive until the kernels that read them are in the stream
  std::vector<Values> values;
  for (const Tensor& t : grads) {
    const Type type = type_of(t, "gradient_norm", fmt::format("gradient {}", whole.size()));
    check(t.device() == grads[0].device(), "gradient_norm",
          "gradient {}: expected it on {}, found {}", whole.size(), grads[0].device().str(),
          describe(t));
    const Tensor& c = whole.emplace_back(t.contiguous());
    values.push_back({c.const_data_ptr(), c.numel(), type});
  }
  const auto options = grads[0].options().dtype(at::kDouble);
  const Tensor partials = at::empty({norm_partials(values)}, options);
  const Tensor norm = at::empty({}, options);
  const Launch launch(grads[0], "gradient_norm");
  gradient_norm(values, partials.mutable_data_ptr<double>(), norm.mutable_data_ptr<double>(),
                launch.stream());
  launch.done(grads[0]);
  return norm;
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("adamw_", adamw_cuda);
  m.impl("adamw8_", adamw8_cuda);
  m.impl("adamw_list_", adamw_list_cuda);
  m.impl("gradient_norm", gradient_norm_cuda);
}

}  // namespace
}  // namespace qad::cuda
