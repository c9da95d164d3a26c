// From a master to what a deployed model reads, with the global scale and the largest
// magnitude as tensors: on a GPU nothing waits.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "nvfp4/nvfp4.h"
#include "ops/fp8.h"

namespace qad::ops {

// value = nvfp4::fake_quantize(bf16(master)) along the last dimension, under block rule `rule`
// and the global scale in `global` (FP32 scalar on the device; 0: not chosen yet), which is first
// raised, never lowered, to nvfp4::global_scale(amax, global_rule, rule) where that is more. master
// (FP32, or BF16: the high half of a split one) and value (of its shape; FP32, on a GPU also BF16)
// are contiguous.
//
// amax: the largest magnitude of bf16(master), as adamw_ returns it; undefined: it is computed
// here. Returns it. Where it is NaN or infinite the master has such an element, or (infinite) one
// too large for any global scale; then `value` is unspecified and `global` as it was.
at::Tensor ship_(const at::Tensor& master, const at::Tensor& value, const at::Tensor& global,
                 const at::Tensor& amax, nvfp4::BlockScale rule, nvfp4::GlobalScale global_rule);

// The same under block scales that were chosen before, E4M3 codes as uint8 [rows, blocks of a row]:
// value = nvfp4::fake_quantize_with_scales(bf16(master)). `global`, which they belong to, stays:
// what outgrows 6 * s * global saturates. `amax` as above.
at::Tensor ship_with_scales_(const at::Tensor& master, const at::Tensor& value,
                             const at::Tensor& global, const at::Tensor& scales,
                             const at::Tensor& amax = {});

// Of many tensors; amax: of each, FP32 [items], or undefined. Returns FP32 [items].
struct ShipItem {
  at::Tensor master, value, global;
  nvfp4::BlockScale rule;
  at::Tensor scales = {};                  // undefined: by the rule
  Precision precision = Precision::nvfp4;  // fp8: as ship_fp8_ does it
};
at::Tensor ship_(const std::vector<ShipItem>& items, const at::Tensor& amax,
                 nvfp4::GlobalScale global_rule);

}  // namespace qad::ops
