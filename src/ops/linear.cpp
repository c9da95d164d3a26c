// Linear layer: one product forward, two backward; in between its input may be kept packed.
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include "ops/autograd.h"
#include "ops/dispatch.h"
#include "ops/ops.h"
#include "ops/pack.h"
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

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Quantizer* packed) {
  const Tensor y = forward(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
  if (recording({&x, &weight, &bias})) {
    const bool dx = x.requires_grad(), dbias = bias.defined() && bias.requires_grad();
    const double global = packed != nullptr ? packed->global : 0;
    // The weight; behind it the input as it is or packed, needed for the weight's gradient only.
    Tensors saved{weight};
    if (weight.requires_grad() && packed != nullptr) {
      const Packed p = pack(x, global);
      saved.insert(saved.end(), {p.codes, p.scales});
    } else if (weight.requires_grad()) {
      saved.push_back(x);
    }
    const auto input = [cols = x.size(1), global, type = x.scalar_type()](const Tensors& saved) {
      return saved.size() == 2 ? saved[1] : unpack({saved[1], saved[2]}, cols, global, type);
    };
    record("linear", y, {x, weight, bias}, saved, [=](const Tensor& dy, Tensors saved) -> Tensors {
      const auto backward = [&]() -> Tensors {
        // The weight's first: what was unpacked is gone when the input's gradient needs room.
        const Tensor dw = saved.size() > 1 ? weight_gradient(saved[0], dy, input(saved)) : Tensor();
        return {dx ? product(dy, saved[0]) : Tensor(), dw,
                dbias ? dy.sum(0, false, at::kFloat) : Tensor()};
      };
      return named("linear_backward", backward, dy, saved[0]);
    });
  }
  return y;
}

}  // namespace qad::ops
