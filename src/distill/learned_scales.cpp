// LSQ's arithmetic; one row of blocks after the other.
#include "distill/learned_scales.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "nvfp4/nvfp4.h"
#include "ops/threads.h"

namespace qad::distill {

at::Tensor step_sizes(const at::Tensor& scales, float global) {
  const at::Tensor steps = at::empty(scales.sizes(), at::kFloat);
  const auto* s = scales.const_data_ptr<std::uint8_t>();
  std::transform(s, s + scales.numel(), steps.data_ptr<float>(),
                 [&](std::uint8_t code) { return nvfp4::e4m3_decode(code) * global; });
  return steps;
}

void encode_step_sizes(const at::Tensor& steps, float global, const at::Tensor& scales) {
  const auto* d = steps.const_data_ptr<float>();
  std::transform(d, d + steps.numel(), scales.data_ptr<std::uint8_t>(), [&](float step) {
    return nvfp4::e4m3_encode(std::max(step / global, nvfp4::kE4M3Min));
  });
}

at::Tensor step_gradient(const at::Tensor& gradient, const at::Tensor& master,
                         const at::Tensor& scales, float global) {
  const std::int64_t rows = scales.size(0), blocks = scales.size(1), cols = blocks * nvfp4::kBlock;
  check(gradient.numel() == rows * cols && gradient.scalar_type() == at::kFloat &&
            master.numel() == rows * cols,
        "train", "learned scales: expected FP32 gradients of {} rows and {} columns", rows, cols);
  const at::Tensor grads = gradient.contiguous(), out = at::empty({rows, blocks}, at::kFloat);
  const auto* s = scales.const_data_ptr<std::uint8_t>();
  const float factor = 1 / std::sqrt(nvfp4::kBlock * nvfp4::kE2M1Max);
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
      to[b] = sum * factor;
    }
  };
  ops::parallel_for(0, rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) row_of(row);
  });
  return out;
}

}  // namespace qad::distill
