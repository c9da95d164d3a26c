// SwiGLU on the joined gate and up projections: silu(gate) * up, in one pass each way.
#include "ops/autograd.h"
#include "ops/quantized_rows.h"
#include "ops/simd.h"

namespace qad::ops {
namespace {

using at::Tensor;

Tensor swiglu_cpu(const Tensor& gate_up, double global, std::int64_t rule,
                  const std::optional<Tensor>& clipped) {
  check_floats(gate_up, 2, "swiglu", "gate_up");
  check(gate_up.size(1) % 2 == 0, "swiglu", "gate_up: expected an even number of columns, found {}",
        gate_up.size(1));
  RowQuantizer quantize("swiglu", global, rule, clipped);
  const Tensor in = gate_up.contiguous();
  const std::int64_t rows = in.size(0), cols = in.size(1) / 2;
  Tensor out = at::empty({rows, cols}, in.options());
  const float* from = in.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  parallel_for(0, rows, row_grain(2 * cols), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    for (std::int64_t r = begin; r < end; ++r) {
      const float *gate = from + r * 2 * cols, *up = gate + cols;
      float* y = to + r * cols;
      for_lanes(d, cols, [&](std::int64_t i, std::int64_t n) {
        const auto g = load(d, gate + i, n);
        store(d, hn::Mul(hn::Mul(g, sigmoid(d, g)), load(d, up + i, n)), y + i, n);
      });
      quantize(y, 1, cols, y);
    }
  });
  quantize.count();
  return out;
}

// With s = sigmoid(g): d gate = dy up s (1 + g (1 - s)), d up = dy g s.
Tensor swiglu_backward_cpu(const Tensor& grad, const Tensor& gate_up) {
  const Tensor in = gate_up.contiguous(), gy = grad.contiguous();
  const std::int64_t rows = in.size(0), cols = in.size(1) / 2;
  Tensor out = at::empty_like(in);
  const float *from = in.const_data_ptr<float>(), *dy = gy.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  parallel_for(0, rows, row_grain(2 * cols), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    const auto one = hn::Set(d, 1.0f);
    for (std::int64_t r = begin; r < end; ++r) {
      const float *gate = from + r * 2 * cols, *up = gate + cols, *g_out = dy + r * cols;
      float *d_gate = to + r * 2 * cols, *d_up = d_gate + cols;
      for_lanes(d, cols, [&](std::int64_t i, std::int64_t n) {
        const auto g = load(d, gate + i, n), s = sigmoid(d, g);
        const auto ds = hn::Mul(load(d, g_out + i, n), s);
        store(d, hn::Mul(ds, g), d_up + i, n);
        const auto slope = hn::MulAdd(g, hn::Sub(one, s), one);
        store(d, hn::Mul(hn::Mul(ds, load(d, up + i, n)), slope), d_gate + i, n);
      });
    }
  });
  return out;
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def("swiglu(Tensor gate_up, float global_scale, int rule, Tensor(a!)? clipped) -> Tensor");
  m.def("swiglu_backward(Tensor grad, Tensor gate_up) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("swiglu", swiglu_cpu);
  m.impl("swiglu_backward", swiglu_backward_cpu);
}

Tensor forward(const Tensor& gate_up, const QuantizerArguments& q) {
  static const auto op = find_op<decltype(swiglu_cpu)>("qad::swiglu");
  return call_kernel(op, gate_up, q.global, q.rule, q.clipped);
}

}  // namespace

Tensor swiglu(const Tensor& gate_up, const Quantizer* q) {
  const Tensor y = forward(gate_up, QuantizerArguments(q));
  if (recording({&gate_up}))
    record("swiglu", y, {gate_up}, {gate_up}, [](const Tensor& grad, Tensors saved) -> Tensors {
      static const auto op = find_op<decltype(swiglu_backward_cpu)>("qad::swiglu_backward");
      return {call_kernel(op, grad, saved[0])};
    });
  return y;
}

}  // namespace qad::ops
