// Tokens into the order of their experts, and back: each token reads or adds its own k rows, so
// that no two threads write to the same and sums have one order.
#include "ops/autograd.h"
#include "ops/grouped_rows.h"
#include "ops/simd.h"

namespace qad::ops {
namespace {

using at::Tensor;

// rows [T, k], which name rows of a matrix of T k.
void check_rows(const Tensor& rows, std::int64_t count, std::string_view operation) {
  check_tensor(rows, at::kInt, 2, operation, "rows");
  check(rows.is_contiguous(), operation, "rows: expected them contiguous");
  check_size(rows.numel(), count, operation, "rows");
  const auto* r = rows.const_data_ptr<std::int32_t>();
  check(std::all_of(r, r + count, [&](std::int32_t i) { return i >= 0 && i < count; }), operation,
        "rows: expected 0 to {}", count - 1);
}

Tensor gather_rows_cpu(const Tensor& x, const Tensor& rows, const Tensor& offsets,
                       at::ArrayRef<double> globals, std::int64_t rule,
                       const std::optional<Tensor>& clipped) {
  check_floats(x, 2, "gather_rows", "x");
  const Tensor in = x.contiguous();
  const std::int64_t tokens = in.size(0), cols = in.size(1), count = rows.numel();
  check_rows(rows, count, "gather_rows");
  check_size(rows.size(0), tokens, "gather_rows", "tokens of rows");
  GroupedRowQuantizer quantize("gather_rows", globals, rule, offsets, count, clipped);
  const std::int64_t k = rows.size(1);
  Tensor out = at::empty({count, cols}, in.options());
  const float* from = in.const_data_ptr<float>();
  const auto* row = rows.const_data_ptr<std::int32_t>();
  float* to = out.data_ptr<float>();
  parallel_for(0, tokens, row_grain(k * cols), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t j = t * k; j < (t + 1) * k; ++j) {
        float* y = to + row[j] * cols;
        std::copy_n(from + t * cols, cols, y);
        quantize(y, row[j], 1, cols);
      }
  });
  quantize.count();
  return out;
}

// out[t] = addend[t] + sum over j of weights[t, j] y[rows[t, j]]; weights absent: 1.
Tensor combine_rows_cpu(const Tensor& y, const std::optional<Tensor>& weights, const Tensor& rows,
                        const std::optional<Tensor>& addend) {
  check_floats(y, 2, "combine_rows", "y");
  check_rows(rows, y.size(0), "combine_rows");
  const std::int64_t tokens = rows.size(0), k = rows.size(1), cols = y.size(1);
  if (weights) {
    check_floats(*weights, 2, "combine_rows", "weights");
    check(weights->sizes() == rows.sizes(), "combine_rows", "weights: expected {}, found {}",
          describe(rows), describe(*weights));
  }
  if (addend) {
    check_floats(*addend, 2, "combine_rows", "addend");
    check_size(addend->size(0), tokens, "combine_rows", "rows of addend");
    check_size(addend->size(1), cols, "combine_rows", "columns of addend");
  }
  const Tensor in = y.contiguous(), by = weights ? weights->contiguous() : Tensor();
  const Tensor first = addend ? addend->contiguous() : Tensor();
  Tensor out = at::empty({tokens, cols}, in.options());
  const float *from = in.const_data_ptr<float>(),
              *w = weights ? by.const_data_ptr<float>() : nullptr;
  const float* added = addend ? first.const_data_ptr<float>() : nullptr;
  const auto* row = rows.const_data_ptr<std::int32_t>();
  float* to = out.data_ptr<float>();
  parallel_for(0, tokens, row_grain(k * cols), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    for (std::int64_t t = begin; t < end; ++t)
      for_lanes(d, cols, [&](std::int64_t i, std::int64_t n) {
        auto sum = added ? load(d, added + t * cols + i, n) : hn::Zero(d);
        for (std::int64_t j = t * k; j < (t + 1) * k; ++j)
          sum = hn::MulAdd(hn::Set(d, w ? w[j] : 1.0f), load(d, from + row[j] * cols + i, n), sum);
        store(d, sum, to + t * cols + i, n);
      });
  });
  return out;
}

// dy[rows[t, j]] = weights[t, j] grad[t]; dweights[t, j] = grad[t] . y[rows[t, j]].
std::tuple<Tensor, Tensor> combine_rows_backward_cpu(const Tensor& grad, const Tensor& y,
                                                     const Tensor& weights, const Tensor& rows) {
  const Tensor g = grad.contiguous(), in = y.contiguous(), by = weights.contiguous();
  const std::int64_t tokens = rows.size(0), k = rows.size(1), cols = in.size(1);
  Tensor dy = at::empty_like(in), dweights = at::empty_like(by);
  const float *from = in.const_data_ptr<float>(), *w = by.const_data_ptr<float>();
  const float* gp = g.const_data_ptr<float>();
  const auto* row = rows.const_data_ptr<std::int32_t>();
  float *to = dy.data_ptr<float>(), *dw = dweights.data_ptr<float>();
  parallel_for(0, tokens, row_grain(k * cols), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t j = t * k; j < (t + 1) * k; ++j) {
        const float* a = from + row[j] * cols;
        float* b = to + row[j] * cols;
        const auto factor = hn::Set(d, w[j]);
        auto products = hn::Zero(d);
        for_lanes(d, cols, [&](std::int64_t i, std::int64_t n) {
          const auto gt = load(d, gp + t * cols + i, n);
          products = hn::MulAdd(gt, load(d, a + i, n), products);
          store(d, hn::Mul(factor, gt), b + i, n);
        });
        dw[j] = sum(d, products);
      }
  });
  return {dy, dweights};
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def(
      "gather_rows(Tensor x, Tensor rows, Tensor offsets, float[] global_scales, int rule, "
      "Tensor(a!)? clipped) -> Tensor");
  m.def("combine_rows(Tensor y, Tensor? weights, Tensor rows, Tensor? addend) -> Tensor");
  m.def(
      "combine_rows_backward(Tensor grad, Tensor y, Tensor weights, Tensor rows) -> (Tensor dy, "
      "Tensor dweights)");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("gather_rows", gather_rows_cpu);
  m.impl("combine_rows", combine_rows_cpu);
  m.impl("combine_rows_backward", combine_rows_backward_cpu);
}

Tensor combine(const Tensor& y, const std::optional<Tensor>& weights, const Tensor& rows,
               const std::optional<Tensor>& addend) {
  static const auto op = find_op<decltype(combine_rows_cpu)>("qad::combine_rows");
  return call_kernel(op, y, weights, rows, addend);
}

}  // namespace

Tensor gather_rows(const Tensor& x, const ExpertOrder& order, const GroupQuantizer* q) {
  static const auto op = find_op<decltype(gather_rows_cpu)>("qad::gather_rows");
  const GroupQuantizerArguments a(q);
  const Tensor y = call_kernel(op, x, order.rows, order.offsets, a.globals, a.rule, a.clipped);
  if (recording({&x}))
    record("gather_rows", y, {x}, {order.rows}, [](const Tensor& grad, Tensors saved) -> Tensors {
      return {combine(grad, std::nullopt, saved[0], std::nullopt)};
    });
  return y;
}

Tensor combine_rows(const Tensor& y, const Tensor& weights, const ExpertOrder& order,
                    const Tensor& addend) {
  const Tensor out =
      combine(y, weights, order.rows, addend.defined() ? std::optional(addend) : std::nullopt);
  if (recording({&y, &weights, &addend}))
    record("combine_rows", out, {y, weights, addend}, {y, weights, order.rows},
           [](const Tensor& grad, Tensors s) -> Tensors {
             static const auto op =
                 find_op<decltype(combine_rows_backward_cpu)>("qad::combine_rows_backward");
             auto [dy, dweights] = call_kernel(op, grad, s[0], s[1], s[2]);
             return {dy, dweights, grad};
           });
  return out;
}

}  // namespace qad::ops
