// The products of experts on CUDA: PyTorch's grouped product where the GPU and the shapes have one,
// which reads on the device which rows are whose; a plain kernel elsewhere.
#include <ATen/Context.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <torch/library.h>

#include "cuda/experts.h"
#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

constexpr const char* kName = "grouped_linear";

// [groups, outputs, columns]: one matrix after the other, as the products read them.
Tensor stacked(at::TensorList weights, const Tensor& x) {
  check(!weights.empty(), kName, "expected a matrix for each group, found none");
  for (const Tensor& w : weights) {
    check_values(w, 2, kName, "weight");
    check(w.sizes() == weights[0].sizes() && w.scalar_type() == x.scalar_type(), kName,
          "weights: expected all as the first and of x's type, found {}",
          ops::describe_all(weights[0], w, x));
  }
  return named(
      kName, [&] { return at::stack(weights); }, x);
}

// Compute capability 9.0 and 10.0 have such a product of BF16, of rows in whole 16 bytes.
bool has_product(const GroupedProduct& p) {
  const int major = at::cuda::getCurrentDeviceProperties()->major;
  return (major == 9 || major == 10) && p.type == Type::bf16 && p.columns % 8 == 0 &&
         p.outputs % 8 == 0;
}

struct Groups {
  Tensor offsets, ends;
  GroupedProduct product;
};
Groups groups_of(const Tensor& x, const Tensor& offsets, at::TensorList weights) {
  const Type type = check_values(x, 2, kName, "x");
  Groups g{check_beside(offsets, at::kInt, x, kName, "offsets"), {}, {}};
  const auto count = static_cast<std::int64_t>(weights.size());
  check_size(g.offsets.numel(), count + 1, kName, "size of offsets");
  g.ends = g.offsets.narrow(0, 1, count);
  g.product = {type,
               x.size(0),
               weights[0].size(1),
               weights[0].size(0),
               count,
               g.offsets.const_data_ptr<std::int32_t>()};
  return g;
}

Tensor grouped_linear_cuda(const Tensor& x, at::TensorList weights, const Tensor& offsets) {
  const Tensor w = stacked(weights, x), in = x.contiguous();
  const Groups g = groups_of(in, offsets, weights);
  check_size(x.size(1), g.product.columns, kName, "columns of x");
  const Launch launch(x, kName);
  if (has_product(g.product) && g.product.rows > 0)
    return named(
        kName, [&] { return at::_grouped_mm(in, w.transpose(1, 2), g.ends); }, x, w);
  Tensor y = at::empty({g.product.rows, g.product.outputs}, x.options());
  grouped_product(g.product, in.const_data_ptr(), w.const_data_ptr(), y.data_ptr(),
                  launch.stream());
  launch.done(x, w);
  return y;
}

std::tuple<Tensor, std::vector<Tensor>> grouped_linear_backward_cuda(const Tensor& grad,
                                                                     const Tensor& x,
                                                                     at::TensorList weights,
                                                                     const Tensor& offsets,
                                                                     bool of_x, bool of_weights) {
  const Tensor dy = grad.contiguous(), in = x.contiguous();
  const Groups g = groups_of(dy, offsets, weights);
  check_size(dy.size(1), g.product.outputs, kName, "columns of grad");
  const GroupedProduct& p = g.product;
  const bool has = has_product(p) && p.rows > 0;
  const Launch launch(dy, "grouped_linear_backward");
  Tensor dx, dweights;
  if (of_x) {
    const Tensor w = stacked(weights, dy);
    if (has) {
      dx = named(
          kName, [&] { return at::_grouped_mm(dy, w, g.ends); }, dy, w);
    } else {
      dx = at::empty({p.rows, p.columns}, dy.options());
      grouped_product_of_x(p, dy.const_data_ptr(), w.const_data_ptr(), dx.data_ptr(),
                           launch.stream());
    }
  }
  if (of_weights) {
    check_size(in.size(1), p.columns, kName, "columns of x");
    if (has) {
      dweights = named(
          kName, [&] { return at::_grouped_mm(dy.t(), in, g.ends); }, dy, in);
      // Of a group without rows nobody promises anything.
      const Tensor empty = g.ends.eq(g.offsets.narrow(0, 0, p.groups)).view({p.groups, 1, 1});
      dweights.masked_fill_(empty, 0);
    } else {
      dweights = at::empty({p.groups, p.outputs, p.columns}, dy.options());
      grouped_product_of_weights(p, dy.const_data_ptr(), in.const_data_ptr(), dweights.data_ptr(),
                                 launch.stream());
    }
  }
  launch.done(grad, x);
  return {dx, of_weights ? dweights.unbind(0) : std::vector<Tensor>()};
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("grouped_linear", grouped_linear_cuda);
  m.impl("grouped_linear_backward", grouped_linear_backward_cuda);
}

}  // namespace
}  // namespace qad::cuda
