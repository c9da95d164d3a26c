// Rotary position embedding on half-split pairs. The gradient is the rotation by the negative
// angle.
#include <cstring>

#include "ops/autograd.h"
#include "ops/dispatch.h"
#include "ops/ops.h"
#include "ops/simd.h"

namespace qad::ops {
namespace {

using at::Tensor;

void rotate(const float* x, const float* cos, const float* sin, float sign, std::int64_t half,
            float* y) {
  const FloatTag d;
  const auto turn = hn::Set(d, sign);
  for_lanes(d, half, [&](std::int64_t i, std::int64_t n) {
    const auto c = load(d, cos + i, n), s = hn::Mul(turn, load(d, sin + i, n));
    const auto a = load(d, x + i, n), b = load(d, x + half + i, n);
    store(d, hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), y + i, n);
    store(d, hn::Add(hn::Mul(b, c), hn::Mul(a, s)), y + half + i, n);
  });
}

Tensor rope_cpu(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions,
                std::int64_t rotated, bool backward) {
  check_floats(x, 3, "rope", "x");
  check_floats(cos, 2, "rope", "cos");
  check_floats(sin, 2, "rope", "sin");
  check_ints(positions, at::kLong, "rope", "positions");
  const std::int64_t tokens = x.size(0), heads = x.size(1), dim = x.size(2), half = dim / 2;
  check(dim % 2 == 0, "rope", "head dimension: expected an even number, found {}", dim);
  check(rotated >= 0 && rotated <= heads, "rope", "rotated heads: expected 0 to {}, found {}",
        heads, rotated);
  check_size(positions.size(0), tokens, "rope", "number of positions");
  check_size(cos.size(1), half, "rope", "columns of cos");
  check(cos.sizes() == sin.sizes(), "rope", "cos and sin: expected the same shape");
  const Tensor in = x.contiguous(), c = cos.contiguous(), s = sin.contiguous(),
               p = positions.contiguous();
  Tensor out = at::empty_like(in);
  const float *from = in.const_data_ptr<float>(), *cp = c.const_data_ptr<float>(),
              *sp = s.const_data_ptr<float>();
  const std::int64_t* at = p.const_data_ptr<std::int64_t>();
  for (std::int64_t t = 0; t < tokens; ++t)
    check(at[t] >= 0 && at[t] < c.size(0), "rope",
          "token {} has position {}: expected 0 to {}; is the sequence longer than the tables?", t,
          at[t], c.size(0) - 1);
  float* to = out.data_ptr<float>();
  const float sign = backward ? -1.0f : 1.0f;
  parallel_for(0, tokens, row_grain(heads * dim), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const float* a = from + t * heads * dim;
      float* y = to + t * heads * dim;
      for (std::int64_t h = 0; h < rotated; ++h)
        rotate(a + h * dim, cp + at[t] * half, sp + at[t] * half, sign, half, y + h * dim);
      std::memcpy(y + rotated * dim, a + rotated * dim, (heads - rotated) * dim * sizeof(float));
    }
  });
  return out;
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def(
      "rope(Tensor x, Tensor cos, Tensor sin, Tensor positions, int rotated, bool backward) -> "
      "Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("rope", rope_cpu);
}

Tensor turn(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions,
            std::int64_t rotated, bool backward) {
  static const auto op = find_op<decltype(rope_cpu)>("qad::rope");
  return call_kernel(op, x, cos, sin, positions, rotated, backward);
}

}  // namespace

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions,
            std::int64_t rotated) {
  const Tensor y = turn(x, cos, sin, positions, rotated, false);
  if (recording({&x}))
    record("rope", y, {x}, {cos, sin, positions},
           [rotated](const Tensor& grad, Tensors saved) -> Tensors {
             return {turn(grad, saved[0], saved[1], saved[2], rotated, true)};
           });
  return y;
}

}  // namespace qad::ops
