// Embedding on CUDA: checks and registration. The gradient is FP32 whatever the table's type: it
// sums over all tokens of a batch, and the head's gradient, which joins it, is FP32 too.
#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

Tensor embedding_cuda(const Tensor& weight, const Tensor& ids) {
  const Type type = check_values(weight, 2, "embedding", "weight");
  const Tensor w = weight.contiguous();
  const Tensor i = check_beside(ids, at::kLong, weight, "embedding", "ids");
  Tensor out = at::empty({i.numel(), w.size(1)}, w.options());
  const Launch launch(w, "embedding");
  embedding(type, w.const_data_ptr(), i.const_data_ptr<std::int64_t>(), w.size(0), w.size(1),
            i.numel(), out.data_ptr(), launch.stream());
  launch.done();
  return out;
}

Tensor embedding_backward_cuda(const Tensor& grad, const Tensor& ids, std::int64_t rows) {
  const Type type = check_values(grad, 2, "embedding_backward", "grad");
  const Tensor g = grad.contiguous();
  const Tensor i = check_beside(ids, at::kLong, grad, "embedding_backward", "ids");
  check_size(i.numel(), g.size(0), "embedding_backward", "number of ids");
  Tensor out = at::zeros({rows, g.size(1)}, g.options().dtype(at::kFloat));
  // Stable: a row's gradients are added in the order of their tokens, as on the CPU.
  const auto [sorted, order] = at::sort(i, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const Launch launch(g, "embedding_backward");
  embedding_backward(type, g.const_data_ptr(), sorted.const_data_ptr<std::int64_t>(),
                     order.const_data_ptr<std::int64_t>(), rows, g.size(1), i.numel(),
                     out.data_ptr<float>(), launch.stream());
  launch.done();
  return out;
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("embedding", embedding_cuda);
  m.impl("embedding_backward", embedding_backward_cuda);
}

}  // namespace
}  // namespace qad::cuda
