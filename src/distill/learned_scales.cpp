// LSQ's arithmetic: on a CPU one row of blocks after the other, elsewhere by PyTorch's operators.
#include "distill/learned_scales.h"

#include <ATen/ops/copysign.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "nvfp4/nvfp4.h"
#include "ops/threads.h"

namespace qad::distill {
namespace {

const float kFactor = 1 / std::sqrt(nvfp4::kBlock * nvfp4::kE2M1Max);

// E2M1's grid by its three spacings; at::round goes to even.
at::Tensor rounded_to_e2m1(const at::Tensor& x) {
  const at::Tensor magnitude = x.abs().clamp(0, nvfp4::kE2M1Max);
  const at::Tensor unit =
      at::where(magnitude.lt(2), 0.5, at::where(magnitude.lt(4), 1.0, 2.0)).to(at::kFloat);
  return at::copysign(magnitude.div(unit).round().mul(unit), x);
}

}  // namespace

namespace by_operators {

at::Tensor step_sizes(const at::Tensor& scales, float global) {
  return scales.view(at::kFloat8_e4m3fn).to(at::kFloat).mul(global);
}

void encode_step_sizes(const at::Tensor& steps, float global, const at::Tensor& scales) {
  // A tensor as divisor: a number's reciprocal would be multiplied with.
  const at::Tensor wanted =
      steps.div(at::full({}, global, steps.options())).clamp(nvfp4::kE4M3Min, nvfp4::kE4M3Max);
  scales.copy_(wanted.to(at::kFloat8_e4m3fn).view(at::kByte));
}

at::Tensor step_gradient(const at::Tensor& gradient, const at::Tensor& master,
                         const at::Tensor& scales, float global) {
  const auto by_block = [&](const at::Tensor& t) {
    return t.to(at::kFloat).reshape({scales.size(0), scales.size(1), nvfp4::kBlock});
  };
  const at::Tensor r =
      by_block(master.to(at::kBFloat16)).div(step_sizes(scales, global).unsqueeze(2));
  const at::Tensor y = rounded_to_e2m1(r);
  const at::Tensor slope = at::where(r.abs().gt(nvfp4::kE2M1Max), y, y.sub(r));
  return by_block(gradient).mul(slope).sum(2).mul_(kFactor);
}

}  // namespace by_operators

at::Tensor step_sizes(const at::Tensor& scales, float global) {
  if (!scales.is_cpu()) return by_operators::step_sizes(scales, global);
  const at::Tensor steps = at::empty(scales.sizes(), at::kFloat);
  const auto* s = scales.const_data_ptr<std::uint8_t>();
  std::transform(s, s + scales.numel(), steps.data_ptr<float>(),
                 [&](std::uint8_t code) { return nvfp4::e4m3_decode(code) * global; });
  return steps;
}

void encode_step_sizes(const at::Tensor& steps, float global, const at::Tensor& scales) {
  if (!steps.is_cpu()) return by_operators::encode_step_sizes(steps, global, scales);
  const auto* d = steps.const_data_ptr<float>();
  std::transform(d, d + steps.numel(), scales.data_ptr<std::uint8_t>(), [&](float step) {
    return nvfp4::e4m3_encode(std::max(step / global, nvfp4::kE4M3Min));
  });
}

at::Tensor step_gradient(const at::Tensor& gradient, const at::Tensor& master,
                         const at::Tensor& scales, float global) {
  const std::int64_t rows = scales.size(0), blocks = scales.size(1), cols = blocks * nvfp4::kBlock;
  check(gradient.numel() == rows * cols && master.numel() == rows * cols, "train",
        "learned scales: expected gradients of {} rows and {} columns", rows, cols);
  if (!scales.is_cpu()) return by_operators::step_gradient(gradient, master, scales, global);
  check(gradient.scalar_type() == at::kFloat, "train", "learned scales: expected FP32 gradients");
  const at::Tensor grads = gradient.contiguous(), out = at::empty({rows, blocks}, at::kFloat);
  const auto* s = scales.const_data_ptr<std::uint8_t>();
  const auto row_of = [&](std::int64_t row) {
    const at::Tensor weights = master.select(0, row).to(at::kBFloat16).to(at::kFloat);
    const float *w = weights.const_data_ptr<float>(),
                *g = grads.const_data_ptr<float>() + row * cols;
    float* to = out.data_ptr<float>() + row * blocks;
    for (std::int64_t b = 0; b < blocks; ++b, w += nvfp4::kBlock, g += nvfp4::kBlock) {
      const float d = nvfp4::e4m3_decode(s[row * blocks + b]) * global;
      float sum = 0;
      for (int i = 0; i < nvfp4::kBlock; ++i) {
        const float r = w[i] / d, y = nvfp4::e2m1_decode(nvfp4::e2m1_encode(r));
        sum += g[i] * (std::fabs(r) > nvfp4::kE2M1Max ? y : y - r);
      }
      to[b] = sum * kFactor;
    }
  };
  ops::parallel_for(0, rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) row_of(row);
  });
  return out;
}

}  // namespace qad::distill
