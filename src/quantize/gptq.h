// One weight rounded by the second moments of its input, H = X^T X [cols, cols]: the least of
// |X (W - Q)|^2 instead of |W - Q|^2. All on a CPU.
#pragma once

#include <ATen/core/Tensor.h>

#include "quantize/policy.h"

namespace qad::quantize {

// A weight that rounds, under its scales, to what a method chose.
struct Rounded {
  at::Tensor master;  // FP32 [rows, cols], numbers of BF16
  at::Tensor scales;  // E4M3 codes, uint8 [rows, cols / 16]
};

// Block scales of `weight` (FP32 [rows, cols], cols a multiple of 16) under `global`: by the
// policy's rule, or by the diagonal blocks of H, `blocks` [cols / 16, 16, 16], which only then is
// looked at.
at::Tensor block_scales(const at::Tensor& weight, const at::Tensor& blocks, float global,
                        const Policy& policy);
// The 16 x 16 blocks on H's diagonal.
at::Tensor diagonal_blocks(const at::Tensor& hessian);

// GPTQ (Frantar et al., arXiv 2210.17323): columns are rounded one after the other, in their order,
// and what each rounding does to X W^T is made good, as well as they can, by the columns after it.
// H gets a hundredth of its mean diagonal on its diagonal, as there, without which it need not have
// an inverse. `scales` as block_scales gives them.
//
// The master of a weight is what it had become when its turn came, rounded to BF16 where that
// changes no code: training goes on from there, not from the middle of a code's range.
Rounded gptq(const at::Tensor& weight, const at::Tensor& hessian, float global,
             const at::Tensor& scales);

}  // namespace qad::quantize
