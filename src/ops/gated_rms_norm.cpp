// The norm behind Mamba's scan: y silu(z), then each group of columns by its own root mean square
// (the gate comes first: norm_before_gate false), and the quantisation after it. Saves 1/rms a
// group; the weight's gradient is summed over fixed blocks of rows.
#include <cmath>

#include "ops/autograd.h"
#include "ops/mamba.h"
#include "ops/quantized_rows.h"
#include "ops/simd.h"

namespace qad::ops {
namespace {

using at::Tensor;

constexpr const char* kName = "gated_rms_norm";

struct Shape {
  std::int64_t rows, cols, groups;
  std::int64_t group() const { return cols / groups; }
};

Shape check_shape(const Tensor& y, const Tensor& z, const Tensor& weight, std::int64_t groups) {
  check_floats(y, 2, kName, "y");
  check_floats(z, 2, kName, "z");
  check_floats(weight, 1, kName, "weight");
  check(y.sizes() == z.sizes(), kName, "y and z: expected one shape, found {}", describe_all(y, z));
  check_size(weight.size(0), y.size(1), kName, "size of weight");
  check(groups > 0 && y.size(1) % groups == 0, kName,
        "groups: expected a divisor of {} columns, found {}", y.size(1), groups);
  return {y.size(0), y.size(1), groups};
}

Tensor with_rows(const Tensor& t) {
  return t.stride(1) == 1 ? t : t.contiguous();
}

std::tuple<Tensor, Tensor> gated_rms_norm_cpu(const Tensor& y, const Tensor& z,
                                              const Tensor& weight, std::int64_t groups, double eps,
                                              double global, std::int64_t rule,
                                              const std::optional<Tensor>& clipped) {
  const Shape s = check_shape(y, z, weight, groups);
  RowQuantizer quantize(kName, global, rule, clipped);
  const Tensor in = with_rows(y), gate = with_rows(z), scale = weight.contiguous();
  Tensor out = at::empty({s.rows, s.cols}, y.options());
  Tensor inverse = at::empty({s.rows, groups}, y.options());
  const float *yp = in.const_data_ptr<float>(), *zp = gate.const_data_ptr<float>();
  const float* w = scale.const_data_ptr<float>();
  float *to = out.data_ptr<float>(), *inv = inverse.data_ptr<float>();
  parallel_for(0, s.rows, row_grain(2 * s.cols), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t first = g * s.group();
        const float *a = yp + r * in.stride(0) + first, *b = zp + r * gate.stride(0) + first;
        float* o = to + r * s.cols + first;
        auto squares = hn::Zero(d);
        for_lanes(d, s.group(), [&](std::int64_t i, std::int64_t n) {
          const auto v = load(d, b + i, n);
          const auto gated = hn::Mul(load(d, a + i, n), hn::Mul(v, sigmoid(d, v)));
          squares = hn::MulAdd(gated, gated, squares);
          store(d, gated, o + i, n);
        });
        const float mean = sum(d, squares) / static_cast<float>(s.group());
        const float r_inv = 1.0f / std::sqrt(mean + static_cast<float>(eps));
        inv[r * groups + g] = r_inv;
        const auto by = hn::Set(d, r_inv);
        for_lanes(d, s.group(), [&](std::int64_t i, std::int64_t n) {
          store(d, hn::Mul(load(d, w + first + i, n), hn::Mul(load(d, o + i, n), by)), o + i, n);
        });
      }
      quantize(to + r * s.cols, 1, s.cols, to + r * s.cols);
    }
  });
  quantize.count();
  return {out, inverse};
}

// With n = y silu(z), r = 1/rms of its group, h = grad * w: dn = r h - n r^3 mean(n h), dy = dn
// silu(z), dz = dn y silu'(z), dw = sum over rows of grad * n * r.
std::tuple<Tensor, Tensor, Tensor> gated_rms_norm_backward_cpu(const Tensor& grad, const Tensor& y,
                                                               const Tensor& z,
                                                               const Tensor& weight,
                                                               const Tensor& inverse) {
  constexpr std::int64_t kMaxBlocks = 64;
  const std::int64_t groups = inverse.size(1);
  const Shape s = check_shape(y, z, weight, groups);
  const Tensor g = grad.contiguous(), in = with_rows(y), gate = with_rows(z);
  const Tensor scale = weight.contiguous();
  const std::int64_t block = std::max<std::int64_t>(16, (s.rows + kMaxBlocks - 1) / kMaxBlocks);
  const std::int64_t blocks = (s.rows + block - 1) / block;
  Tensor dy = at::empty({s.rows, s.cols}, y.options()), dz = at::empty_like(dy);
  Tensor partial = at::zeros({blocks, s.cols}, y.options());
  const float *gp = g.const_data_ptr<float>(), *yp = in.const_data_ptr<float>();
  const float *zp = gate.const_data_ptr<float>(), *w = scale.const_data_ptr<float>();
  const float* inv = inverse.const_data_ptr<float>();
  float *dyp = dy.data_ptr<float>(), *dzp = dz.data_ptr<float>();
  float* sums = partial.data_ptr<float>();
  const auto row_group = [&](std::int64_t r, std::int64_t group, float* dweight) {
    const FloatTag d;
    const auto one = hn::Set(d, 1.0f);
    const std::int64_t first = group * s.group(), at = r * s.cols + first;
    const float *a = yp + r * in.stride(0) + first, *b = zp + r * gate.stride(0) + first;
    const float r_inv = inv[r * groups + group];
    const auto by = hn::Set(d, r_inv);
    auto products = hn::Zero(d);
    for_lanes(d, s.group(), [&](std::int64_t i, std::int64_t n) {
      const auto v = load(d, b + i, n);
      const auto gated = hn::Mul(load(d, a + i, n), hn::Mul(v, sigmoid(d, v)));
      const auto gn = hn::Mul(load(d, gp + at + i, n), gated);
      products = hn::MulAdd(gn, load(d, w + first + i, n), products);
      float* dw = dweight + first + i;
      store(d, hn::MulAdd(gn, by, load(d, dw, n)), dw, n);
    });
    const auto c = hn::Set(d, r_inv * r_inv * (sum(d, products) / static_cast<float>(s.group())));
    for_lanes(d, s.group(), [&](std::int64_t i, std::int64_t n) {
      const auto v = load(d, b + i, n), sig = sigmoid(d, v), silu = hn::Mul(v, sig);
      const auto in_y = load(d, a + i, n);
      const auto h = hn::Mul(load(d, gp + at + i, n), load(d, w + first + i, n));
      const auto dn = hn::Mul(by, hn::NegMulAdd(c, hn::Mul(in_y, silu), h));
      store(d, hn::Mul(dn, silu), dyp + at + i, n);
      const auto slope = hn::Mul(sig, hn::MulAdd(v, hn::Sub(one, sig), one));
      store(d, hn::Mul(hn::Mul(dn, in_y), slope), dzp + at + i, n);
    });
  };
  parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b)
      for (std::int64_t r = b * block; r < std::min(s.rows, (b + 1) * block); ++r)
        for (std::int64_t group = 0; group < groups; ++group)
          row_group(r, group, sums + b * s.cols);
  });
  return {dy, dz, partial.sum(0)};
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def(
      "gated_rms_norm(Tensor y, Tensor z, Tensor weight, int groups, float eps, float "
      "global_scale, int rule, Tensor(a!)? clipped) -> (Tensor out, Tensor inverse)");
  m.def(
      "gated_rms_norm_backward(Tensor grad, Tensor y, Tensor z, Tensor weight, Tensor inverse) -> "
      "(Tensor dy, Tensor dz, Tensor dweight)");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("gated_rms_norm", gated_rms_norm_cpu);
  m.impl("gated_rms_norm_backward", gated_rms_norm_backward_cpu);
}

std::tuple<Tensor, Tensor> forward(const Tensor& y, const Tensor& z, const Tensor& weight,
                                   std::int64_t groups, double eps, const QuantizerArguments& q) {
  static const auto op = find_op<decltype(gated_rms_norm_cpu)>("qad::gated_rms_norm");
  return call_kernel(op, y, z, weight, groups, eps, q.global, q.rule, q.clipped);
}

}  // namespace

Tensor gated_rms_norm(const Tensor& y, const Tensor& z, const Tensor& weight, std::int64_t groups,
                      double eps, const Quantizer* q) {
  auto [out, inverse] = forward(y, z, weight, groups, eps, QuantizerArguments(q));
  if (recording({&y, &z, &weight}))
    record("gated_rms_norm", out, {y, z, weight}, {y, z, weight, inverse},
           [](const Tensor& grad, Tensors saved) -> Tensors {
             static const auto op =
                 find_op<decltype(gated_rms_norm_backward_cpu)>("qad::gated_rms_norm_backward");
             auto [dy, dz, dweight] = call_kernel(op, grad, saved[0], saved[1], saved[2], saved[3]);
             return {dy, dz, dweight};
           });
  return out;
}

}  // namespace qad::ops
