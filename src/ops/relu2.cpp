// Squared ReLU, max(x, 0)^2 (Primer, arXiv 2109.08668), with the quantisation of what follows, for
// all rows or by groups.
#include "ops/autograd.h"
#include "ops/grouped_rows.h"
#include "ops/simd.h"

namespace qad::ops {
namespace {

using at::Tensor;

// A NaN stays one.
HWY_INLINE FloatVec relu(FloatTag d, FloatVec x) {
  return hn::IfThenZeroElse(hn::Lt(x, hn::Zero(d)), x);
}

Tensor relu2_cpu(const Tensor& x, at::ArrayRef<double> globals, std::int64_t rule,
                 const std::optional<Tensor>& offsets, const std::optional<Tensor>& clipped) {
  check_floats(x, 2, "relu2", "x");
  const Tensor in = x.contiguous();
  const std::int64_t rows = in.size(0), cols = in.size(1);
  GroupedRowQuantizer quantize("relu2", globals, rule, offsets, rows, clipped);
  Tensor out = at::empty_like(in);
  const float* from = in.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  parallel_for(0, rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    for (std::int64_t r = begin; r < end; ++r) {
      const float* a = from + r * cols;
      float* y = to + r * cols;
      for_lanes(d, cols, [&](std::int64_t i, std::int64_t n) {
        const auto v = relu(d, load(d, a + i, n));
        store(d, hn::Mul(v, v), y + i, n);
      });
      quantize(y, r, 1, cols);
    }
  });
  quantize.count();
  return out;
}

// dx = 2 max(x, 0) dy
Tensor relu2_backward_cpu(const Tensor& grad, const Tensor& x) {
  const Tensor in = x.contiguous(), gy = grad.contiguous();
  Tensor out = at::empty_like(in);
  const float *from = in.const_data_ptr<float>(), *dy = gy.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  parallel_for(0, in.numel(), row_grain(1), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    for_lanes(d, end - begin, [&](std::int64_t i, std::int64_t n) {
      const auto v = relu(d, load(d, from + begin + i, n));
      store(d, hn::Mul(hn::Add(v, v), load(d, dy + begin + i, n)), to + begin + i, n);
    });
  });
  return out;
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  // Without offsets there is one scale, for all rows.
  m.def(
      "relu2(Tensor x, float[] global_scales, int rule, Tensor? offsets, "
      "Tensor(a!)? clipped) -> Tensor");
  m.def("relu2_backward(Tensor grad, Tensor x) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("relu2", relu2_cpu);
  m.impl("relu2_backward", relu2_backward_cpu);
}

Tensor forward(const Tensor& x, at::ArrayRef<double> globals, std::int64_t rule,
               const std::optional<Tensor>& offsets, const std::optional<Tensor>& clipped) {
  static const auto op = find_op<decltype(relu2_cpu)>("qad::relu2");
  const Tensor y = call_kernel(op, x, globals, rule, offsets, clipped);
  if (recording({&x}))
    record("relu2", y, {x}, {x}, [](const Tensor& grad, Tensors saved) -> Tensors {
      static const auto op = find_op<decltype(relu2_backward_cpu)>("qad::relu2_backward");
      return {call_kernel(op, grad, saved[0])};
    });
  return y;
}

}  // namespace

Tensor relu2(const Tensor& x, const Quantizer* q) {
  const QuantizerArguments a(q);
  return forward(x, a.global, a.rule, std::nullopt, a.clipped);
}

Tensor relu2(const Tensor& x, const Tensor& offsets, const GroupQuantizer* q) {
  const GroupQuantizerArguments a(q);
  return forward(x, a.globals, a.rule, offsets, a.clipped);
}

}  // namespace qad::ops
