// SwiGLU on the joined gate and up projections: silu(gate) * up, in one pass each way, with the
// quantisation of what follows, for all rows or by groups.
#include "ops/autograd.h"
#include "ops/grouped_rows.h"
#include "ops/simd.h"

namespace qad::ops {
namespace {

using at::Tensor;

void check_gate_up(const Tensor& gate_up, const char* operation) {
  check_floats(gate_up, 2, operation, "gate_up");
  check(gate_up.size(1) % 2 == 0, operation,
        "gate_up: expected an even number of columns, found {}", gate_up.size(1));
}

// quantize(y, row): of a row as it is ready.
template <class Quantize>
Tensor swiglu_rows(const Tensor& gate_up, Quantize&& quantize) {
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
      quantize(y, r);
    }
  });
  return out;
}

Tensor swiglu_cpu(const Tensor& gate_up, double global, std::int64_t rule,
                  const std::optional<Tensor>& clipped) {
  check_gate_up(gate_up, "swiglu");
  RowQuantizer quantize("swiglu", global, rule, clipped);
  const std::int64_t cols = gate_up.size(1) / 2;
  const Tensor out = swiglu_rows(gate_up, [&](float* y, std::int64_t) { quantize(y, 1, cols, y); });
  quantize.count();
  return out;
}

Tensor grouped_swiglu_cpu(const Tensor& gate_up, at::ArrayRef<double> globals, std::int64_t rule,
                          const Tensor& offsets, const std::optional<Tensor>& clipped) {
  check_gate_up(gate_up, "grouped_swiglu");
  GroupedRowQuantizer quantize("grouped_swiglu", globals, rule, offsets, gate_up.size(0), clipped);
  const std::int64_t cols = gate_up.size(1) / 2;
  const Tensor out =
      swiglu_rows(gate_up, [&](float* y, std::int64_t row) { quantize(y, row, 1, cols); });
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
  m.def(
      "grouped_swiglu(Tensor gate_up, float[] global_scales, int rule, Tensor offsets, "
      "Tensor(a!)? clipped) -> Tensor");
  m.def("swiglu_backward(Tensor grad, Tensor gate_up) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("swiglu", swiglu_cpu);
  m.impl("grouped_swiglu", grouped_swiglu_cpu);
  m.impl("swiglu_backward", swiglu_backward_cpu);
}

Tensor forward(const Tensor& gate_up, const QuantizerArguments& q) {
  static const auto op = find_op<decltype(swiglu_cpu)>("qad::swiglu");
  return call_kernel(op, gate_up, q.global, q.rule, q.clipped);
}

void record_swiglu(const Tensor& y, const Tensor& gate_up) {
  if (!recording({&gate_up})) return;
  record("swiglu", y, {gate_up}, {gate_up}, [](const Tensor& grad, Tensors saved) -> Tensors {
    static const auto op = find_op<decltype(swiglu_backward_cpu)>("qad::swiglu_backward");
    return {call_kernel(op, grad, saved[0])};
  });
}

}  // namespace

Tensor swiglu(const Tensor& gate_up, const Quantizer* q) {
  const Tensor y = forward(gate_up, QuantizerArguments(q));
  record_swiglu(y, gate_up);
  return y;
}

Tensor swiglu(const Tensor& gate_up, const Tensor& offsets, const GroupQuantizer* q) {
  static const auto op = find_op<decltype(grouped_swiglu_cpu)>("qad::grouped_swiglu");
  const GroupQuantizerArguments a(q);
  const Tensor y = call_kernel(op, gate_up, a.globals, a.rule, offsets, a.clipped);
  record_swiglu(y, gate_up);
  return y;
}

}  // namespace qad::ops
