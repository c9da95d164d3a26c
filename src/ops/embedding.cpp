// Embedding: rows of a table by token id. The gradient is dense, since the table is usually the
// head's weight too.
#include <cstring>

#include "ops/autograd.h"
#include "ops/dispatch.h"
#include "ops/ops.h"

namespace qad::ops {
namespace {

using at::Tensor;

Tensor embedding_cpu(const Tensor& weight, const Tensor& ids) {
  check_floats(weight, 2, "embedding", "weight");
  check_ints(ids, at::kLong, "embedding", "ids");
  const std::int64_t rows = weight.size(0), cols = weight.size(1), tokens = ids.numel();
  const Tensor w = weight.contiguous(), i = ids.contiguous();
  Tensor out = at::empty({tokens, cols}, weight.options());
  const float* from = w.const_data_ptr<float>();
  const std::int64_t* id = i.const_data_ptr<std::int64_t>();
  float* to = out.data_ptr<float>();
  for (std::int64_t t = 0; t < tokens; ++t)
    check(id[t] >= 0 && id[t] < rows, "embedding",
          "token {} has id {}: expected 0 to {}; is the tokenizer from this checkpoint?", t, id[t],
          rows - 1);
  parallel_for(0, tokens, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      std::memcpy(to + t * cols, from + id[t] * cols, cols * sizeof(float));
  });
  return out;
}

// Each thread owns a range of columns and adds all tokens in order, so that the sum does not depend
// on the number of threads.
void add_rows(const Tensor& grad, const Tensor& ids, float* to) {
  const std::int64_t cols = grad.size(1), tokens = ids.numel();
  const Tensor g = grad.contiguous(), i = ids.contiguous();
  const float* from = g.const_data_ptr<float>();
  const std::int64_t* id = i.const_data_ptr<std::int64_t>();
  parallel_for(0, cols, row_grain(tokens), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const float* a = from + t * cols;
      float* b = to + id[t] * cols;
      for (std::int64_t c = begin; c < end; ++c) b[c] += a[c];
    }
  });
}

Tensor embedding_backward_cpu(const Tensor& grad, const Tensor& ids, std::int64_t rows) {
  Tensor out = at::zeros({rows, grad.size(1)}, grad.options());
  add_rows(grad, ids, out.data_ptr<float>());
  return out;
}

void embedding_backward_into_cpu(const Tensor& into, const Tensor& grad, const Tensor& ids) {
  check_floats(into, 2, "embedding_backward_", "into");
  check_floats(grad, 2, "embedding_backward_", "grad");
  check_ints(ids, at::kLong, "embedding_backward_", "ids");
  check(into.is_contiguous(), "embedding_backward_", "into: expected a contiguous matrix");
  check_size(grad.size(1), into.size(1), "embedding_backward_", "columns of grad");
  check_size(grad.size(0), ids.numel(), "embedding_backward_", "rows of grad");
  const auto id = ids.accessor<std::int64_t, 1>();
  for (std::int64_t t = 0; t < ids.numel(); ++t)
    check(id[t] >= 0 && id[t] < into.size(0), "embedding_backward_",
          "token {} has id {}: expected 0 to {}", t, id[t], into.size(0) - 1);
  add_rows(grad, ids, into.data_ptr<float>());
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def("embedding(Tensor weight, Tensor ids) -> Tensor");
  m.def("embedding_backward(Tensor grad, Tensor ids, int rows) -> Tensor");
  // The same, added token by token to a gradient that exists.
  m.def("embedding_backward_(Tensor(a!) into, Tensor grad, Tensor ids) -> ()");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("embedding", embedding_cpu);
  m.impl("embedding_backward", embedding_backward_cpu);
  m.impl("embedding_backward_", embedding_backward_into_cpu);
}

Tensor forward(const Tensor& weight, const Tensor& ids) {
  static const auto op = find_op<decltype(embedding_cpu)>("qad::embedding");
  return call_kernel(op, weight, ids);
}

}  // namespace

Tensor embedding(const Tensor& weight, const Tensor& ids) {
  const Tensor rows = forward(weight, ids);
  if (recording({&weight}))
    record("embedding", rows, {weight}, {ids},
           [vocabulary = weight.size(0)](const Tensor& grad, Tensors saved) -> Tensors {
             static const auto op =
                 find_op<decltype(embedding_backward_cpu)>("qad::embedding_backward");
             return {call_kernel(op, grad, saved[0], vocabulary)};
           });
  return rows;
}

}  // namespace qad::ops
