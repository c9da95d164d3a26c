// Rotary embedding and SwiGLU on CUDA: checks and registration.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

Tensor rope_cuda(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions,
                 std::int64_t rotated, bool backward) {
  const Type type = check_values(x, 3, "rope", "x");
  const std::int64_t tokens = x.size(0), heads = x.size(1), dim = x.size(2);
  check(dim % 2 == 0, "rope", "head dimension: expected an even number, found {}", dim);
  check(rotated >= 0 && rotated <= heads, "rope", "rotated heads: expected 0 to {}, found {}",
        heads, rotated);
  if (cos.dim() != 2 || cos.sizes() != sin.sizes())
    fail("rope", "cos and sin: expected two tables of the same shape, found {} and {}",
         describe(cos), describe(sin));
  check_size(positions.numel(), tokens, "rope", "number of positions");
  check_size(cos.size(1), dim / 2, "rope", "columns of cos");
  const Tensor in = x.contiguous(), c = check_beside(cos, at::kFloat, x, "rope", "cos"),
               s = check_beside(sin, at::kFloat, x, "rope", "sin"),
               p = check_beside(positions, at::kLong, x, "rope", "positions");
  Tensor out = at::empty_like(in);
  const Launch launch(in, "rope");
  rope(type, in.const_data_ptr(), c.const_data_ptr<float>(), s.const_data_ptr<float>(),
       p.const_data_ptr<std::int64_t>(), c.size(0), tokens, heads, dim, rotated,
       backward ? -1.0f : 1.0f, out.data_ptr(), launch.stream());
  launch.done(in, c);
  return out;
}

Tensor swiglu_cuda(const Tensor& gate_up, double global, std::int64_t rule,
                   const std::optional<Tensor>& clipped) {
  const Type type = check_values(gate_up, 2, "swiglu", "gate_up");
  check(gate_up.size(1) % 2 == 0, "swiglu", "gate_up: expected an even number of columns, found {}",
        gate_up.size(1));
  const Quantization q = quantization_of(global, rule, clipped, gate_up, "swiglu");
  const Tensor in = gate_up.contiguous();
  Tensor out = at::empty({in.size(0), in.size(1) / 2}, in.options());
  const Launch launch(in, "swiglu");
  swiglu(type, in.const_data_ptr(), in.size(0), in.size(1) / 2, q, out.data_ptr(), launch.stream());
  launch.done(in);
  return out;
}

Tensor swiglu_backward_cuda(const Tensor& grad, const Tensor& gate_up) {
  const Type type = check_values(gate_up, 2, "swiglu_backward", "gate_up");
  const Tensor in = gate_up.contiguous();
  const Tensor g = check_beside(grad, in.scalar_type(), in, "swiglu_backward", "grad");
  check_size(g.numel() * 2, in.numel(), "swiglu_backward", "twice the elements of grad");
  Tensor out = at::empty_like(in);
  const Launch launch(in, "swiglu_backward");
  swiglu_backward(type, g.const_data_ptr(), in.const_data_ptr(), in.size(0), in.size(1) / 2,
                  out.data_ptr(), launch.stream());
  launch.done(g, in);
  return out;
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("rope", rope_cuda);
  m.impl("swiglu", swiglu_cuda);
  m.impl("swiglu_backward", swiglu_backward_cuda);
}

}  // namespace
}  // namespace qad::cuda
