// Embedding on CUDA: checks and registration. The gradient is FP32 whatever the table's type: it
// sums over all tokens of a batch, and the head's gradient, which joins it, is FP32 too.
#include <ATen/ops/clamp.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <limits>

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
  launch.done(w, i);
  return out;
}

// Adds to the rows of `out`, which are zeros if `fresh`.
void add_rows(const Tensor& grad, const Tensor& ids, bool fresh, const Tensor& out,
              const char* operation) {
  const Type type = check_values(grad, 2, operation, "grad");
  const Tensor g = grad.contiguous();
  const Tensor i = check_beside(ids, at::kLong, grad, operation, "ids");
  check_size(i.numel(), g.size(0), operation, "number of ids");
  check_size(out.size(1), g.size(1), operation, "columns of the gradient");
  const std::int64_t rows = out.size(0);
  check(rows < std::numeric_limits<std::int32_t>::max(), operation,
        "rows: expected fewer than 2^31, found {}", rows);
  const Launch launch(g, operation);
  // 32 bits sort in half the time of 64; ids out of range stay so. Stable: a row's gradients are
  // added in the order of their tokens, as on the CPU.
  const auto [sorted, order] = named(
      operation,
      [&] {
        return at::sort(at::clamp(i, -1, rows).to(at::kInt), /*stable=*/true, /*dim=*/0,
                        /*descending=*/false);
      },
      g, i);
  embedding_backward(type, g.const_data_ptr(), sorted.const_data_ptr<std::int32_t>(),
                     order.const_data_ptr<std::int64_t>(), rows, g.size(1), i.numel(), fresh,
                     out.data_ptr<float>(), launch.stream());
  launch.done(g, i, out);
}

Tensor embedding_backward_cuda(const Tensor& grad, const Tensor& ids, std::int64_t rows) {
  check_values(grad, 2, "embedding_backward", "grad");
  Tensor out = at::zeros({rows, grad.size(1)}, grad.options().dtype(at::kFloat));
  add_rows(grad, ids, true, out, "embedding_backward");
  return out;
}

void embedding_backward_into_cuda(const Tensor& into, const Tensor& grad, const Tensor& ids) {
  check_values(grad, 2, "embedding_backward_", "grad");
  check_beside(into, at::kFloat, grad, "embedding_backward_", "into");
  check(into.dim() == 2 && into.is_contiguous(), "embedding_backward_",
        "into: expected a contiguous matrix");
  add_rows(grad, ids, false, into, "embedding_backward_");
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("embedding", embedding_cuda);
  m.impl("embedding_backward", embedding_backward_cuda);
  m.impl("embedding_backward_", embedding_backward_into_cuda);
}

}  // namespace
}  // namespace qad::cuda
