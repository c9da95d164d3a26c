// Root-mean-square norm, with the residual sum before it and the quantisation after it. Saves 1/rms
// a row; the weight's gradient is summed over fixed blocks of rows, so that it does not depend on
// the number of threads.
#include <cmath>

#include "ops/autograd.h"
#include "ops/quantized_rows.h"
#include "ops/simd.h"

namespace qad::ops {
namespace {

using at::Tensor;

// Without delta there is no sum to give back: it would be x.
std::tuple<Tensor, Tensor, Tensor> rms_norm_cpu(const Tensor& x, const std::optional<Tensor>& delta,
                                                const Tensor& weight, double eps, double global,
                                                std::int64_t rule,
                                                const std::optional<Tensor>& clipped) {
  check_floats(weight, 1, "rms_norm", "weight");
  check(x.defined() && x.scalar_type() == at::kFloat && x.dim() >= 1, "rms_norm",
        "x: expected float32 with at least one dimension");
  check_size(x.size(-1), weight.size(0), "rms_norm", "columns of x");
  if (delta) {
    check_floats(*delta, x.dim(), "rms_norm", "delta");
    check(delta->sizes() == x.sizes(), "rms_norm", "delta: expected the shape of x");
  }
  RowQuantizer quantize("rms_norm", global, rule, clipped);
  const Tensor scale = weight.contiguous();
  const Tensor first = x.contiguous(), second = delta ? delta->contiguous() : Tensor();
  const Tensor in = delta ? at::empty_like(first) : first;
  const std::int64_t cols = scale.numel(), rows = cols == 0 ? 0 : in.numel() / cols;
  Tensor out = at::empty_like(in), inverse = at::empty({rows}, in.options());
  const float* from = in.const_data_ptr<float>();
  const float* before = first.const_data_ptr<float>();
  const float* added = delta ? second.const_data_ptr<float>() : nullptr;
  float* sums = delta ? in.data_ptr<float>() : nullptr;
  const float* w = scale.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  float* inv = inverse.data_ptr<float>();
  parallel_for(0, rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    for (std::int64_t r = begin; r < end; ++r) {
      const float* a = from + r * cols;
      float* y = to + r * cols;
      if (added != nullptr)
        for_lanes(d, cols, [&](std::int64_t i, std::int64_t n) {
          const std::int64_t at = r * cols + i;
          store(d, hn::Add(load(d, before + at, n), load(d, added + at, n)), sums + at, n);
        });
      auto squares = hn::Zero(d);
      for_lanes(d, cols, [&](std::int64_t i, std::int64_t n) {
        const auto v = load(d, a + i, n);
        squares = hn::MulAdd(v, v, squares);
      });
      inv[r] =
          1.0f / std::sqrt(sum(d, squares) / static_cast<float>(cols) + static_cast<float>(eps));
      const auto s = hn::Set(d, inv[r]);
      for_lanes(d, cols, [&](std::int64_t i, std::int64_t n) {
        store(d, hn::Mul(load(d, w + i, n), hn::Mul(load(d, a + i, n), s)), y + i, n);
      });
      quantize(y, 1, cols, y);
    }
  });
  quantize.count();
  return {delta ? in : Tensor(), out, inverse};
}

// With r = 1/rms and h = grad * w: dx = r h - x r^3 mean(h x), dw = sum over rows of grad * x * r.
// grad_sum, what reaches x beside the norm, is added to dx.
std::tuple<Tensor, Tensor> rms_norm_backward_cpu(const Tensor& grad,
                                                 const std::optional<Tensor>& grad_sum,
                                                 const Tensor& x, const Tensor& weight,
                                                 const Tensor& inverse) {
  constexpr std::int64_t kMaxBlocks = 64;
  const Tensor g = grad.contiguous(), in = x.contiguous(), scale = weight.contiguous();
  const Tensor beside = grad_sum ? grad_sum->contiguous() : Tensor();
  const std::int64_t cols = scale.numel(), rows = inverse.numel();
  const std::int64_t block = std::max<std::int64_t>(16, (rows + kMaxBlocks - 1) / kMaxBlocks);
  const std::int64_t blocks = (rows + block - 1) / block;
  Tensor dx = at::empty_like(in), partial = at::zeros({blocks, cols}, in.options());
  const float *gp = g.const_data_ptr<float>(), *xp = in.const_data_ptr<float>();
  const float *w = scale.const_data_ptr<float>(), *inv = inverse.const_data_ptr<float>();
  const float* bp = beside.defined() ? beside.const_data_ptr<float>() : nullptr;
  float *dxp = dx.data_ptr<float>(), *sums = partial.data_ptr<float>();
  parallel_for(0, blocks, row_grain(cols * block), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    for (std::int64_t b = begin; b < end; ++b)
      for (std::int64_t r = b * block; r < std::min(rows, (b + 1) * block); ++r) {
        const float *gr = gp + r * cols, *a = xp + r * cols;
        float *to = dxp + r * cols, *dw = sums + b * cols;
        const auto s = hn::Set(d, inv[r]);
        auto products = hn::Zero(d);
        for_lanes(d, cols, [&](std::int64_t i, std::int64_t n) {
          const auto gx = hn::Mul(load(d, gr + i, n), load(d, a + i, n));
          products = hn::MulAdd(gx, load(d, w + i, n), products);
          store(d, hn::MulAdd(gx, s, load(d, dw + i, n)), dw + i, n);
        });
        const auto c = hn::Set(d, inv[r] * inv[r] * (sum(d, products) / static_cast<float>(cols)));
        for_lanes(d, cols, [&](std::int64_t i, std::int64_t n) {
          const auto h = hn::Mul(load(d, gr + i, n), load(d, w + i, n));
          const auto through = hn::Mul(s, hn::NegMulAdd(c, load(d, a + i, n), h));
          store(d, bp ? hn::Add(load(d, bp + r * cols + i, n), through) : through, to + i, n);
        });
      }
  });
  return {dx, partial.sum(0)};
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def(
      "rms_norm(Tensor x, Tensor? delta, Tensor weight, float eps, float global_scale, int rule, "
      "Tensor(a!)? clipped) -> (Tensor sum, Tensor y, Tensor inverse)");
  m.def(
      "rms_norm_backward(Tensor grad, Tensor? grad_sum, Tensor x, Tensor weight, Tensor inverse) "
      "-> (Tensor dx, Tensor dweight)");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("rms_norm", rms_norm_cpu);
  m.impl("rms_norm_backward", rms_norm_backward_cpu);
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const std::optional<Tensor>& delta,
                                           const Tensor& weight, double eps,
                                           const QuantizerArguments& q) {
  static const auto op = find_op<decltype(rms_norm_cpu)>("qad::rms_norm");
  return call_kernel(op, x, delta, weight, eps, q.global, q.rule, q.clipped);
}

// `saved`: x, weight, inverse.
std::tuple<Tensor, Tensor> backward(const Tensor& grad, const std::optional<Tensor>& grad_sum,
                                    const Tensors& saved) {
  static const auto op = find_op<decltype(rms_norm_backward_cpu)>("qad::rms_norm_backward");
  return call_kernel(op, grad, grad_sum, saved[0], saved[1], saved[2]);
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, const Quantizer* q) {
  auto [none, y, inverse] = forward(x, std::nullopt, weight, eps, QuantizerArguments(q));
  if (recording({&x, &weight}))
    record("rms_norm", y, {x, weight}, {x, weight, inverse},
           [](const Tensor& grad, Tensors saved) -> Tensors {
             auto [dx, dweight] = backward(grad, std::nullopt, saved);
             return {dx, dweight};
           });
  return y;
}

std::pair<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& delta, const Tensor& weight,
                                       double eps, const Quantizer* q) {
  auto [sum, y, inverse] = forward(x, delta, weight, eps, QuantizerArguments(q));
  if (recording({&x, &delta, &weight}))
    record("add_rms_norm", Tensors{sum, y}, {x, delta, weight}, {sum, weight, inverse},
           [](const Tensors& grads, Tensors saved) -> Tensors {
             if (!grads[1].defined()) return {grads[0], grads[0], Tensor()};
             auto [dx, dweight] = backward(
                 grads[1], grads[0].defined() ? std::optional(grads[0]) : std::nullopt, saved);
             return {dx, dx, dweight};
           });
  return {sum, y};
}

}  // namespace qad::ops
