// Linear layer: one product forward, two backward.
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

Tensor forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  static const auto op = find_op<decltype(linear_cpu)>("qad::linear");
  return call_kernel(op, x, weight, bias);
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Tensor y = forward(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
  if (recording({&x, &weight, &bias})) {
    // x is needed for the weight's gradient only, the weight for that of x.
    const Tensors saved = {weight.requires_grad() ? x : Tensor(),
                           x.requires_grad() ? weight : Tensor()};
    record(
        "linear", y, {x, weight, bias}, saved,
        [sum = bias.defined() && bias.requires_grad()](const Tensor& dy, Tensors saved) -> Tensors {
          return {saved[1].defined() ? product(dy, saved[1]) : Tensor(),
                  saved[0].defined() ? product(dy.t(), saved[0]) : Tensor(),
                  sum ? dy.sum(0) : Tensor()};
        });
  }
  return y;
}

}  // namespace qad::ops
