// Block scales that training learns (LSQ: Esser et al., Learned Step Size Quantization, ICLR 2020):
// each block's step size d = s * g is an FP32 number of its own, shipped as the nearest E4M3 scale.
#pragma once

#include <ATen/core/Tensor.h>

namespace qad::distill {

// Scales are E4M3 codes, uint8 [rows, blocks]; step sizes FP32 of that shape.
at::Tensor step_sizes(const at::Tensor& scales, float global);
// scales = e4m3(clamp(d / global, 2^-9, 448))
void encode_step_sizes(const at::Tensor& steps, float global, const at::Tensor& scales);
// What the loss's gradient by the values [rows, cols] is by the step sizes. With r = w / d of the
// scale that is shipped, w = bf16(master), a value is e2m1(r) * d, and its derivative by d is
// e2m1(r) - r, or +-6 where |r| > 6; rounding the scale to E4M3 passes straight through. Summed
// over the block and multiplied by LSQ's factor 1 / sqrt(16 * 6).
// `master`: FP32, or the BF16 half of a split one; gradients on a GPU may be BF16.
at::Tensor step_gradient(const at::Tensor& gradient, const at::Tensor& master,
                         const at::Tensor& scales, float global);

// What the above do off the CPU, by PyTorch's operators: the same bits, but for the order of
// step_gradient's sums.
namespace by_operators {
at::Tensor step_sizes(const at::Tensor& scales, float global);
void encode_step_sizes(const at::Tensor& steps, float global, const at::Tensor& scales);
at::Tensor step_gradient(const at::Tensor& gradient, const at::Tensor& master,
                         const at::Tensor& scales, float global);
}  // namespace by_operators

}  // namespace qad::distill
