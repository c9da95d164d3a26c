// Mamba's convolution and gated norm on CUDA: checks and registration.
#include "cuda/mamba.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

Tensor with_rows(const Tensor& t) {
  return t.stride(1) == 1 ? t : t.contiguous();
}
Rows rows_of(const Tensor& t) {
  return {t.const_data_ptr(), t.stride(0)};
}

// The operands of a convolution, checked and held.
struct Operands {
  Tensor x, weight, bias, starts;
  Convolution conv;
};

Operands checked_conv(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                      const Tensor& cu_seqlens) {
  constexpr const char* name = "causal_conv";
  const Type type = check_values(x, 2, name, "x");
  check_values(weight, 3, name, "weight");
  check(weight.size(0) == x.size(1) && weight.size(1) == 1 && weight.size(2) >= 1 &&
            weight.size(2) <= kMostTaps,
        name, "weight: expected [{}, 1, 1 to {} taps], found {}", x.size(1), kMostTaps,
        describe(weight));
  Operands o{with_rows(x),
             check_beside(weight, x.scalar_type(), x, name, "weight"),
             bias ? check_beside(*bias, x.scalar_type(), x, name, "bias") : Tensor(),
             check_beside(cu_seqlens, at::kInt, x, name, "cu_seqlens"),
             {}};
  if (bias) check_size(bias->numel(), x.size(1), name, "size of bias");
  o.conv = {type,
            {x.size(0), o.starts.numel() - 1, o.starts.const_data_ptr<std::int32_t>()},
            x.size(1),
            weight.size(2),
            rows_of(o.x),
            o.weight.const_data_ptr(),
            bias ? o.bias.const_data_ptr() : nullptr};
  return o;
}

Tensor causal_conv_cuda(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                        const Tensor& cu_seqlens) {
  const Operands o = checked_conv(x, weight, bias, cu_seqlens);
  Tensor y = at::empty(x.sizes(), x.options());
  const Launch launch(x, "causal_conv");
  causal_conv(o.conv, y.data_ptr(), launch.stream());
  launch.done(x, weight);
  return y;
}

std::tuple<Tensor, Tensor, Tensor> causal_conv_backward_cuda(const Tensor& grad, const Tensor& x,
                                                             const Tensor& weight,
                                                             const std::optional<Tensor>& bias,
                                                             const Tensor& cu_seqlens) {
  const Operands o = checked_conv(x, weight, bias, cu_seqlens);
  const Tensor g = check_beside(grad, x.scalar_type(), x, "causal_conv_backward", "grad");
  check_size(g.numel(), x.numel(), "causal_conv_backward", "elements of grad");
  const std::int64_t taps = o.conv.taps;
  Tensor dx = at::empty(x.sizes(), x.options());
  Tensor partial = at::empty({causal_conv_partials(x.size(0)), taps + 1, x.size(1)},
                             x.options().dtype(at::kFloat));
  const Launch launch(x, "causal_conv_backward");
  causal_conv_backward(o.conv, g.const_data_ptr(), dx.data_ptr(), partial.data_ptr<float>(),
                       launch.stream());
  launch.done(grad, x, weight);
  const Tensor sums = partial.sum(0);
  return {dx, sums.narrow(0, 0, taps).t().unsqueeze(1).to(weight.scalar_type()).contiguous(),
          bias ? sums.select(0, taps).to(bias->scalar_type()) : Tensor()};
}

Tensor causal_conv_cached_cuda(const Tensor& x, const Tensor& weight,
                               const std::optional<Tensor>& bias, const Tensor& cu_seqlens,
                               const Tensor& lengths, const Tensor& slots, const Tensor& state) {
  constexpr const char* name = "causal_conv";
  const Operands o = checked_conv(x, weight, bias, cu_seqlens);
  check_beside(state, x.scalar_type(), x, name, "state");
  check(state.dim() == 3 && state.is_contiguous() && state.size(1) == o.conv.taps - 1 &&
            state.size(2) == x.size(1),
        name, "state: expected contiguous [slots, {}, {}], found {}", o.conv.taps - 1, x.size(1),
        describe(state));
  const Tensor of = check_beside(lengths, at::kInt, x, name, "lengths"),
               in = check_beside(slots, at::kInt, x, name, "slots");
  check_size(of.numel(), o.conv.in.documents, name, "number of lengths");
  check_size(in.numel(), o.conv.in.documents, name, "number of slots");
  Tensor y = at::empty(x.sizes(), x.options());
  const Launch launch(x, name);
  causal_conv_cached(
      o.conv, {state.size(0), of.const_data_ptr<std::int32_t>(), in.const_data_ptr<std::int32_t>()},
      state.data_ptr(), y.data_ptr(), launch.stream());
  launch.done(x, weight, state);
  return y;
}

// The operands of a gated norm, checked and held.
struct NormOperands {
  Tensor y, z, weight;
  GatedNorm norm;
};

NormOperands checked_norm(const Tensor& y, const Tensor& z, const Tensor& weight,
                          std::int64_t groups) {
  constexpr const char* name = "gated_rms_norm";
  const Type type = check_values(y, 2, name, "y");
  check(y.sizes() == z.sizes() && z.scalar_type() == y.scalar_type(), name,
        "y and z: expected one shape and type, found {}", ops::describe_all(y, z));
  check_size(weight.numel(), y.size(1), name, "size of weight");
  check(groups > 0 && y.size(1) % groups == 0, name,
        "groups: expected a divisor of {} columns, found {}", y.size(1), groups);
  NormOperands o{
      with_rows(y), with_rows(z), check_beside(weight, y.scalar_type(), y, name, "weight"), {}};
  o.norm = {
      type, y.size(0), y.size(1), groups, rows_of(o.y), rows_of(o.z), o.weight.const_data_ptr()};
  return o;
}

std::tuple<Tensor, Tensor> gated_rms_norm_cuda(const Tensor& y, const Tensor& z,
                                               const Tensor& weight, std::int64_t groups,
                                               double eps, double global, std::int64_t rule,
                                               const std::optional<Tensor>& clipped) {
  const NormOperands o = checked_norm(y, z, weight, groups);
  const Quantization q = quantization_of(global, rule, clipped, y, "gated_rms_norm");
  Tensor out = at::empty(y.sizes(), y.options());
  Tensor inverse = at::empty({y.size(0), groups}, y.options().dtype(at::kFloat));
  const Launch launch(y, "gated_rms_norm");
  gated_rms_norm(o.norm, static_cast<float>(eps), out.data_ptr(), inverse.data_ptr<float>(),
                 launch.stream());
  if (q.wanted())
    fake_quantize(o.norm.type, out.const_data_ptr(), y.size(0), y.size(1), q, out.data_ptr(),
                  launch.stream());
  launch.done(y, z, weight);
  return {out, inverse};
}

std::tuple<Tensor, Tensor, Tensor> gated_rms_norm_backward_cuda(const Tensor& grad, const Tensor& y,
                                                                const Tensor& z,
                                                                const Tensor& weight,
                                                                const Tensor& inverse) {
  constexpr const char* name = "gated_rms_norm_backward";
  const NormOperands o = checked_norm(y, z, weight, inverse.size(1));
  const Tensor g = check_beside(grad, y.scalar_type(), y, name, "grad"),
               inv = check_beside(inverse, at::kFloat, y, name, "inverse");
  check_size(g.numel(), y.numel(), name, "elements of grad");
  Tensor dy = at::empty(y.sizes(), y.options()), dz = at::empty_like(dy);
  Tensor partial = at::empty({gated_norm_partials(y.size(0)), y.size(1)}, inv.options());
  const Launch launch(y, name);
  gated_rms_norm_backward(o.norm, g.const_data_ptr(), inv.const_data_ptr<float>(), dy.data_ptr(),
                          dz.data_ptr(), partial.data_ptr<float>(), launch.stream());
  launch.done(grad, y, z);
  return {dy, dz, partial.sum(0).to(weight.scalar_type())};
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("causal_conv", causal_conv_cuda);
  m.impl("causal_conv_backward", causal_conv_backward_cuda);
  m.impl("causal_conv_cached", causal_conv_cached_cuda);
  m.impl("gated_rms_norm", gated_rms_norm_cuda);
  m.impl("gated_rms_norm_backward", gated_rms_norm_backward_cuda);
}

}  // namespace
}  // namespace qad::cuda
