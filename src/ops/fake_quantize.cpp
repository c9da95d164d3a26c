// NVFP4 fake quantisation of a tensor by rows, in parallel; the gradient passes straight through.
#include "ops/autograd.h"
#include "ops/quantized_rows.h"

namespace qad::ops {
namespace {

using at::Tensor;

Tensor fake_quantize_cpu(const Tensor& x, double global, std::int64_t rule, const Tensor& clipped) {
  check(x.defined() && x.scalar_type() == at::kFloat && x.dim() >= 1, "fake_quantize",
        "x: expected float32 with at least one dimension");
  check_tensor(clipped, at::kLong, 0, "fake_quantize", "clipped");
  RowQuantizer quantize("fake_quantize", global, rule, clipped);
  const Tensor in = x.contiguous();
  Tensor out = at::empty_like(in);
  const std::int64_t cols = in.size(-1), rows = cols == 0 ? 0 : in.numel() / cols;
  const float* from = in.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  parallel_for(0, rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
    quantize(from + begin * cols, end - begin, cols, to + begin * cols);
  });
  quantize.count();
  return out;
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def("fake_quantize(Tensor x, float global_scale, int rule, Tensor(a!) clipped) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("fake_quantize", fake_quantize_cpu);
}

Tensor forward(const Tensor& x, const Quantizer& q) {
  static const auto op = find_op<decltype(fake_quantize_cpu)>("qad::fake_quantize");
  return call_kernel(op, x, q.global, static_cast<std::int64_t>(q.rule), q.clipped);
}

}  // namespace

Tensor fake_quantize(const Tensor& x, const Quantizer& q) {
  const Tensor y = forward(x, q);
  if (recording({&x}))
    record("fake_quantize", y, {x}, {},
           [](const Tensor& grad, Tensors) -> Tensors { return {grad}; });
  return y;
}

}  // namespace qad::ops
