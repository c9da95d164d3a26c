// FP8 (E4M3) under one scale a tensor, for linears beside NVFP4's: value = e4m3(x / scale) * scale,
// nearest even, saturating at 448. An FP8 cache's rounding (fake_quantize_cache) is this one;
// nvfp4::e4m3_encode and PyTorch's cast give the same codes, and tests hold them to each other.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>
#include <vector>

#include "nvfp4/nvfp4.h"

namespace qad::ops {

// What a quantised linear's weight and input are rounded to.
enum class Precision { nvfp4, fp8 };
constexpr std::string_view name_of(Precision p) {
  return p == Precision::fp8 ? "FP8" : "NVFP4";
}

// amax / 448, at least 2^-99 (ModelOpt's), or by GlobalScale::pow2 the power of two at or above it:
// that costs a floating-point format nothing but the top of its range, and every value is exact in
// BF16. 1 for amax 0.
float fp8_scale(float amax, nvfp4::GlobalScale rule);

// The FP32 values above; `scale` is one FP32 number where x is.
at::Tensor through_e4m3(const at::Tensor& x, const at::Tensor& scale);

// Of x [T, K] with one scale, in x's type. The gradient passes straight through, where values
// saturate too, as ModelOpt's does by default. `clipped`, int64 scalar, grows by the number of
// values beyond 448 * scale.
at::Tensor fake_quantize_fp8(const at::Tensor& x, double scale, const at::Tensor& clipped);
// The same of rows that are sorted by expert (experts.h): `scales` and `clipped` [experts] have one
// of each; offsets int32 [experts + 1]. On a CPU.
at::Tensor fake_quantize_fp8(const at::Tensor& x, const std::vector<double>& scales,
                             const at::Tensor& offsets, const at::Tensor& clipped);

// What ship_ (ship.h) does, for a weight in FP8: value = the above of bf16(master) under `scale`,
// which is first raised, never lowered, to fp8_scale(amax, rule), so nothing saturates. Returns
// amax, FP32 []; where it is NaN or infinite, `value` is unspecified and `scale` as it was. Waits
// for a GPU.
at::Tensor ship_fp8_(const at::Tensor& master, const at::Tensor& value, const at::Tensor& scale,
                     nvfp4::GlobalScale rule);

}  // namespace qad::ops
