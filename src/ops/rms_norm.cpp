// Root-mean-square norm. Saves 1/rms a row; the weight's gradient is summed over fixed blocks of
// rows, so that it does not depend on the number of threads.
#include <cmath>

#include "ops/autograd.h"
#include "ops/dispatch.h"
#include "ops/ops.h"
#include "ops/simd.h"

namespace qad::ops {
namespace {

using at::Tensor;

std::tuple<Tensor, Tensor> rms_norm_cpu(const Tensor& x, const Tensor& weight, double eps) {
  check_floats(weight, 1, "rms_norm", "weight");
  check(x.defined() && x.scalar_type() == at::kFloat && x.dim() >= 1, "rms_norm",
        "x: expected float32 with at least one dimension");
  check_size(x.size(-1), weight.size(0), "rms_norm", "columns of x");
  const Tensor in = x.contiguous(), scale = weight.contiguous();
  const std::int64_t cols = scale.numel(), rows = cols == 0 ? 0 : in.numel() / cols;
  Tensor out = at::empty_like(in), inverse = at::empty({rows}, in.options());
  const float* from = in.const_data_ptr<float>();
  const float* w = scale.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  float* inv = inverse.data_ptr<float>();
  at::parallel_for(0, rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    for (std::int64_t r = begin; r < end; ++r) {
      const float* a = from + r * cols;
      float* y = to + r * cols;
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
    }
  });
  return {out, inverse};
}

// With r = 1/rms and h = grad * w: dx = r h - x r^3 mean(h x), dw = sum over rows of grad * x * r.
std::tuple<Tensor, Tensor> rms_norm_backward_cpu(const Tensor& grad, const Tensor& x,
                                                 const Tensor& weight, const Tensor& inverse) {
  constexpr std::int64_t kMaxBlocks = 64;
  const Tensor g = grad.contiguous(), in = x.contiguous(), scale = weight.contiguous();
  const std::int64_t cols = scale.numel(), rows = inverse.numel();
  const std::int64_t block = std::max<std::int64_t>(16, (rows + kMaxBlocks - 1) / kMaxBlocks);
  const std::int64_t blocks = (rows + block - 1) / block;
  Tensor dx = at::empty_like(in), partial = at::zeros({blocks, cols}, in.options());
  const float *gp = g.const_data_ptr<float>(), *xp = in.const_data_ptr<float>();
  const float *w = scale.const_data_ptr<float>(), *inv = inverse.const_data_ptr<float>();
  float *dxp = dx.data_ptr<float>(), *sums = partial.data_ptr<float>();
  at::parallel_for(0, blocks, row_grain(cols * block), [&](std::int64_t begin, std::int64_t end) {
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
          store(d, hn::Mul(s, hn::NegMulAdd(c, load(d, a + i, n), h)), to + i, n);
        });
      }
  });
  return {dx, partial.sum(0)};
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor y, Tensor inverse)");
  m.def(
      "rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor inverse) -> (Tensor dx, "
      "Tensor dweight)");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("rms_norm", rms_norm_cpu);
  m.impl("rms_norm_backward", rms_norm_backward_cpu);
}

std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& weight, double eps) {
  static const auto op = find_op<decltype(rms_norm_cpu)>("qad::rms_norm");
  return call_kernel(op, x, weight, eps);
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  auto [y, inverse] = forward(x, weight, eps);
  if (recording({&x, &weight}))
    record("rms_norm", y, {x, weight}, {x, weight, inverse},
           [](const Tensor& grad, Tensors saved) -> Tensors {
             static const auto op =
                 find_op<decltype(rms_norm_backward_cpu)>("qad::rms_norm_backward");
             auto [dx, dweight] = call_kernel(op, grad, saved[0], saved[1], saved[2]);
             return {dx, dweight};
           });
  return y;
}

}  // namespace qad::ops
