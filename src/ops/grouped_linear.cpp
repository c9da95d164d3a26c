// The products of experts: each group of rows with a matrix of its own.
#include <ATen/ops/empty.h>

#include "ops/autograd.h"
#include "ops/grouped_rows.h"
#include "ops/product.h"

namespace qad::ops {
namespace {

using at::Tensor;

// Calls f(group, first row, rows) for every group. Those that could keep all threads busy come one
// after another, each product cut for all of them; of the others a thread takes one at a time. The
// bits of a product do not depend on its threads (ops/matmul.h).
template <class F>
void for_groups(std::span<const std::int32_t> offsets, F&& f) {
  const auto groups = static_cast<std::int64_t>(offsets.size()) - 1;
  const std::int64_t large = std::max<std::int64_t>(1, offsets.back() / at::get_num_threads());
  const auto call = [&](std::int64_t g) {
    const auto i = static_cast<std::size_t>(g);
    f(i, offsets[i], offsets[i + 1] - offsets[i]);
  };
  std::vector<std::int64_t> small;
  for (std::int64_t g = 0; g < groups; ++g) {
    const auto i = static_cast<std::size_t>(g);
    if (offsets[i + 1] - offsets[i] >= large)
      call(g);
    else
      small.push_back(g);
  }
  for_pieces(static_cast<std::int64_t>(small.size()),
             [&](std::int64_t i) { call(small[static_cast<std::size_t>(i)]); });
}

std::span<const std::int32_t> checked(const Tensor& x, at::TensorList weights,
                                      const Tensor& offsets) {
  check_floats(x, 2, "grouped_linear", "x");
  const auto at = checked_offsets(offsets, x.size(0), "grouped_linear");
  check(!weights.empty() && weights.size() + 1 == at.size(), "grouped_linear",
        "expected a matrix for each of {} groups, found {}", at.size() - 1, weights.size());
  for (const Tensor& w : weights) {
    check_floats(w, 2, "grouped_linear", "weight");
    check_size(w.size(1), x.size(1), "grouped_linear", "columns of weight");
    check_size(w.size(0), weights[0].size(0), "grouped_linear", "rows of weight");
  }
  return at;
}

Tensor grouped_linear_cpu(const Tensor& x, at::TensorList weights, const Tensor& offsets) {
  const auto at = checked(x, weights, offsets);
  const Tensor y = at::empty({x.size(0), weights[0].size(0)}, x.options());
  for_groups(at, [&](std::size_t g, std::int64_t first, std::int64_t rows) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    if (rows > 0) product_into(y.narrow(0, first, rows), x.narrow(0, first, rows), weights[g].t());
  });
  return y;
}

std::tuple<Tensor, std::vector<Tensor>> grouped_linear_backward_cpu(const Tensor& grad,
                                                                    const Tensor& x,
                                                                    at::TensorList weights,
                                                                    const Tensor& offsets,
                                                                    bool of_x, bool of_weights) {
  const auto at = checked_offsets(offsets, grad.size(0), "grouped_linear_backward");
  const Tensor dy = grad.contiguous();
  const std::int64_t n = weights[0].size(0), k = weights[0].size(1);
  const Tensor dx = of_x ? at::empty({dy.size(0), k}, dy.options()) : Tensor();
  std::vector<Tensor> dweights;
  for (std::size_t i = 0; of_weights && i < weights.size(); ++i)
    dweights.push_back(at::empty({n, k}, dy.options()));
  for_groups(at, [&](std::size_t g, std::int64_t first, std::int64_t rows) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor d = dy.narrow(0, first, rows);
    if (of_x && rows > 0) product_into(dx.narrow(0, first, rows), d, weights[g]);
    if (of_weights) product_into(dweights[g], d.t(), x.narrow(0, first, rows));  // 0 of no rows
  });
  return {dx, std::move(dweights)};
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def("grouped_linear(Tensor x, Tensor[] weights, Tensor offsets) -> Tensor");
  // x is read for the weights' gradients alone.
  m.def(
      "grouped_linear_backward(Tensor grad, Tensor x, Tensor[] weights, Tensor offsets, bool of_x, "
      "bool of_weights) -> (Tensor dx, Tensor[] dweights)");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("grouped_linear", grouped_linear_cpu);
  m.impl("grouped_linear_backward", grouped_linear_backward_cpu);
}

}  // namespace

Tensor grouped_linear(const Tensor& x, const std::vector<Tensor>& weights, const Tensor& offsets) {
  static const auto op = find_op<decltype(grouped_linear_cpu)>("qad::grouped_linear");
  const Tensor y = call_kernel(op, x, weights, offsets);
  const bool of_weights = std::any_of(weights.begin(), weights.end(),
                                      [](const Tensor& w) { return w.requires_grad(); });
  if (recording({&x}) || (of_weights && at::GradMode::is_enabled())) {
    Tensors inputs{x}, saved{offsets, of_weights ? x : Tensor()};
    inputs.insert(inputs.end(), weights.begin(), weights.end());
    saved.insert(saved.end(), weights.begin(), weights.end());
    record("grouped_linear", y, inputs, saved,
           [of_x = x.requires_grad(), of_weights](const Tensor& grad, Tensors s) -> Tensors {
             static const auto op =
                 find_op<decltype(grouped_linear_backward_cpu)>("qad::grouped_linear_backward");
             const Tensors weights(s.begin() + 2, s.end());
             auto [dx, gradients] = call_kernel(op, grad, s[1].defined() ? s[1] : grad, weights,
                                                s[0], of_x, of_weights);
             gradients.insert(gradients.begin(), dx);
             gradients.resize(weights.size() + 1);
             return gradients;
           });
  }
  return y;
}

}  // namespace qad::ops
