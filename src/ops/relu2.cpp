// Squared ReLU, max(x, 0)^2 (Primer, arXiv 2109.08668), with the quantisation after it.
#include "ops/autograd.h"
#include "ops/quantized_rows.h"
#include "ops/simd.h"

namespace qad::ops {
namespace {

using at::Tensor;

Tensor relu2_cpu(const Tensor& x, double global, std::int64_t rule,
                 const std::optional<Tensor>& clipped) {
  check_floats(x, 2, "relu2", "x");
  RowQuantizer quantize("relu2", global, rule, clipped);
  const Tensor in = x.contiguous();
  const std::int64_t rows = in.size(0), cols = in.size(1);
  Tensor out = at::empty_like(in);
  const float* from = in.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  parallel_for(0, rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    float* y = to + begin * cols;
    for_lanes(d, (end - begin) * cols, [&](std::int64_t i, std::int64_t n) {
      const auto v = hn::Max(load(d, from + begin * cols + i, n), hn::Zero(d));
      store(d, hn::Mul(v, v), y + i, n);
    });
    quantize(y, end - begin, cols, y);
  });
  quantize.count();
  return out;
}

Tensor relu2_backward_cpu(const Tensor& grad, const Tensor& x) {
  const Tensor in = x.contiguous(), g = grad.contiguous();
  Tensor out = at::empty_like(in);
  const float *from = in.const_data_ptr<float>(), *gy = g.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  parallel_for(0, in.numel(), row_grain(1), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    for_lanes(d, end - begin, [&](std::int64_t i, std::int64_t n) {
      const auto v = hn::Max(load(d, from + begin + i, n), hn::Zero(d));
      store(d, hn::Mul(hn::Add(v, v), load(d, gy + begin + i, n)), to + begin + i, n);
    });
  });
  return out;
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def("relu2(Tensor x, float global_scale, int rule, Tensor(a!)? clipped) -> Tensor");
  m.def("relu2_backward(Tensor grad, Tensor x) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("relu2", relu2_cpu);
  m.impl("relu2_backward", relu2_backward_cpu);
}

Tensor forward(const Tensor& x, const QuantizerArguments& q) {
  static const auto op = find_op<decltype(relu2_cpu)>("qad::relu2");
  return call_kernel(op, x, q.global, q.rule, q.clipped);
}

}  // namespace

Tensor relu2(const Tensor& x, const Quantizer* q) {
  const Tensor y = forward(x, QuantizerArguments(q));
  if (recording({&x}))
    record("relu2", y, {x}, {x}, [](const Tensor& grad, Tensors saved) -> Tensors {
      static const auto op = find_op<decltype(relu2_backward_cpu)>("qad::relu2_backward");
      return {call_kernel(op, grad, saved[0])};
    });
  return y;
}

}  // namespace qad::ops
