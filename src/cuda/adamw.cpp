// AdamW and the gradient norm on CUDA: checks and registration.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cuda/tensor.h"
#include "ops/optimizer_checks.h"

namespace qad::cuda {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

Tensor update(const ops::AdamWStep& step, const Tensor& master, const Optional& low,
              const Tensor& grad, const Moments& moments, const Optional& factor) {
  const Type type = type_of(grad, "adamw", "grad");
  const Tensor g = grad.contiguous(), amax = at::empty({}, master.options().dtype(at::kFloat));
  const Masters masters = {master.mutable_data_ptr(),
                           low && low->defined() ? low->mutable_data_ptr<std::int16_t>() : nullptr};
  const Launch launch(master, "adamw");
  adamw(step, type, g.const_data_ptr(), masters, moments,
        factor && factor->defined() ? factor->const_data_ptr<float>() : nullptr, master.numel(),
        static_cast<std::uint32_t*>(amax.mutable_data_ptr()), launch.stream());
  launch.done(master, g);
  return amax;
}

Tensor adamw_cuda(const Tensor& master, const Optional& low, const Tensor& grad, const Tensor& m,
                  const Tensor& v, const Optional& factor, double learning_rate, double beta1,
                  double beta2, double epsilon, double weight_decay, std::int64_t step,
                  std::int64_t seed) {
  ops::check_adamw(master, low, grad, factor, step);
  ops::check_moments(m, v, master);
  const auto kind = m.scalar_type() == at::kFloat ? Moments::f32 : Moments::bf16;
  return update(ops::adamw_step(learning_rate, beta1, beta2, epsilon, weight_decay, step,
                                static_cast<std::uint64_t>(seed)),
                master, low, grad,
                {kind, m.mutable_data_ptr(), v.mutable_data_ptr(), nullptr, nullptr}, factor);
}

Tensor adamw8_cuda(const Tensor& master, const Optional& low, const Tensor& grad,
                   const Tensor& m_codes, const Tensor& m_scales, const Tensor& v_codes,
                   const Tensor& v_scales, const Optional& factor, double learning_rate,
                   double beta1, double beta2, double epsilon, double weight_decay,
                   std::int64_t step, std::int64_t seed) {
  ops::check_adamw(master, low, grad, factor, step);
  ops::check_moment8(m_codes, m_scales, master, "m");
  ops::check_moment8(v_codes, v_scales, master, "v");
  return update(ops::adamw_step(learning_rate, beta1, beta2, epsilon, weight_decay, step,
                                static_cast<std::uint64_t>(seed)),
                master, low, grad,
                {Moments::coded, m_codes.mutable_data_ptr(), v_codes.mutable_data_ptr(),
                 m_scales.mutable_data_ptr<float>(), v_scales.mutable_data_ptr<float>()},
                factor);
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
  m.impl("gradient_norm", gradient_norm_cuda);
}

}  // namespace
}  // namespace qad::cuda
