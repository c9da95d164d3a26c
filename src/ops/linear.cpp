// Linear layer: one product forward, two backward.
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include "ops/autograd.h"
#include "ops/dispatch.h"
#include "ops/ops.h"
#include "ops/product.h"

namespace qad::ops {
namespace {

using at::Tensor;

Tensor linear_cpu(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  check_floats(x, 2, "linear", "x");
  check_floats(weight, 2, "linear", "weight");
  check_size(x.size(1), weight.size(1), "linear", "columns of x");
  if (bias) {
    check_floats(*bias, 1, "linear", "bias");
    check_size(bias->size(0), weight.size(0), "linear", "size of bias");
  }
  return product(x, weight.t(), bias.value_or(Tensor()));
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("linear", linear_cpu);
}

// d weight = dy^T x. A GPU's product adds to the gradient where it lies, in its type, so that sums
// over micro-batches are FP32 where the gradient is and cost no pass of their own.
Tensor weight_gradient(const Tensor& weight, const Tensor& dy, const Tensor& x) {
  if (weight.is_cpu() || !weight.is_leaf()) return product(dy.t(), x);
  const at::ScalarType type = weight.grad_dtype().value_or(weight.scalar_type());
  const bool same = type == x.scalar_type();
  Tensor& sum = weight.mutable_grad();
  if (!sum.defined()) return same ? at::mm(dy.t(), x) : at::mm(dy.t(), x, type);
  if (same)
    at::addmm_out(sum, sum, dy.t(), x);
  else
    at::addmm_out(sum, sum, dy.t(), x, type);
  return {};
}

Tensor forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  static const auto op = find_op<decltype(linear_cpu)>("qad::linear");
  return call_kernel(op, x, weight, bias);
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Tensor y = forward(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
  if (recording({&x, &weight, &bias})) {
    const bool dx = x.requires_grad(), dbias = bias.defined() && bias.requires_grad();
    // x is needed for the weight's gradient only.
    record("linear", y, {x, weight, bias}, {weight.requires_grad() ? x : Tensor(), weight},
           [dx, dbias](const Tensor& dy, Tensors saved) -> Tensors {
             return {dx ? product(dy, saved[1]) : Tensor(),
                     saved[0].defined() ? weight_gradient(saved[1], dy, saved[0]) : Tensor(),
                     dbias ? dy.sum(0, false, at::kFloat) : Tensor()};
           });
  }
  return y;
}

}  // namespace qad::ops
