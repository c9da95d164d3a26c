// NVFP4 fake quantisation of a tensor by rows, in parallel; the gradient passes straight through.
#include <atomic>

#include "ops/autograd.h"
#include "ops/dispatch.h"
#include "ops/ops.h"

namespace qad::ops {
namespace {

using at::Tensor;

std::tuple<Tensor, Tensor> fake_quantize_cpu(const Tensor& x, double global, std::int64_t rule) {
  check(x.defined() && x.scalar_type() == at::kFloat && x.dim() >= 1, "fake_quantize",
        "x: expected float32 with at least one dimension");
  check(global > 0 && std::isfinite(global), "fake_quantize",
        "global scale: expected a positive number, found {}; was the tensor calibrated?", global);
  const Tensor in = x.contiguous();
  Tensor out = at::empty_like(in);
  const std::int64_t cols = in.size(-1), rows = cols == 0 ? 0 : in.numel() / cols;
  const float* from = in.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  std::atomic<std::int64_t> clipped = 0;
  at::parallel_for(0, rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
    clipped +=
        nvfp4::fake_quantize(from + begin * cols, end - begin, cols, static_cast<float>(global),
                             static_cast<nvfp4::BlockScale>(rule), to + begin * cols);
  });
  return {out, at::scalar_tensor(clipped.load(), at::kLong)};
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def("fake_quantize(Tensor x, float scale, int rule) -> (Tensor y, Tensor clipped)");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("fake_quantize", fake_quantize_cpu);
}

Tensor forward(const Tensor& x, double global, nvfp4::BlockScale rule, std::int64_t* clipped) {
  static const auto op = find_op<decltype(fake_quantize_cpu)>("qad::fake_quantize");
  auto [y, count] = call_kernel(op, x, global, static_cast<std::int64_t>(rule));
  if (clipped) *clipped += count.item<std::int64_t>();
  return y;
}

}  // namespace

Tensor fake_quantize(const Tensor& x, double global, nvfp4::BlockScale rule,
                     std::int64_t* clipped) {
  const Tensor y = forward(x, global, rule, clipped);
  if (recording({&x}))
    record("fake_quantize", y, {x}, {},
           [](const Tensor& grad, Tensors) -> Tensors { return {grad}; });
  return y;
}

}  // namespace qad::ops
