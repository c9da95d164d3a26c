// On a CPU one loop that rounds and counts; PyTorch's own operators elsewhere, to the same bits.
// (On a CPU those take 40 ns a value, most of it from E4M3 back to FP32, against 1 for the loop.)
#include "ops/fp8.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "ops/autograd.h"
#include "ops/checks.h"
#include "ops/dispatch.h"

namespace qad::ops {
namespace {

using at::Tensor;

constexpr const char* kName = "fake_quantize_fp8";

// The E4M3 value nearest to x, ties to even, saturating. Without branches, for vectors.
inline float e4m3_value(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), sign = bits & 0x80000000;
  const float all = std::bit_cast<float>(bits ^ sign);
  const float magnitude = all > nvfp4::kE4M3Max ? nvfp4::kE4M3Max : all;
  // Three bits of mantissa: half a unit more, or less by the last bit where it is a tie.
  std::uint32_t normal = std::bit_cast<std::uint32_t>(magnitude);
  normal = (normal + 0x7FFFF + (normal >> 20 & 1)) & 0xFFF00000;
  // Subnormals are multiples of 2^-9, which is the unit of 2^14.
  const auto subnormal = std::bit_cast<std::uint32_t>(magnitude + 0x1p14f - 0x1p14f);
  const std::uint32_t rounded = magnitude < 0x1p-6f ? subnormal : normal;
  return std::bit_cast<float>(sign | (all == all ? rounded : 0x7FC00000));
}

// How many were beyond `limit`.
std::int64_t round_values(const float* from, std::int64_t n, float scale, float limit, float* to) {
  std::int64_t beyond = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    beyond += std::fabs(from[i]) > limit;
    to[i] = e4m3_value(from[i] / scale) * scale;
  }
  return beyond;
}

std::int64_t round_on_cpu(const Tensor& from, const Tensor& to, float scale, float limit) {
  const float* x = from.const_data_ptr<float>();
  float* y = to.mutable_data_ptr<float>();
  std::atomic<std::int64_t> beyond = 0;
  parallel_for(0, from.numel(), std::int64_t{1} << 14, [&](std::int64_t begin, std::int64_t end) {
    beyond += round_values(x + begin, end - begin, scale, limit, y + begin);
  });
  return beyond;
}

void round_rows(const Tensor& from, const Tensor& to, double scale, const Tensor& clipped) {
  check(scale > 0 && std::isfinite(scale), kName,
        "scale: expected a positive number, found {}; was the tensor calibrated?", scale);
  // A scale that was made of the largest value may have been rounded down.
  const auto limit = static_cast<float>(nvfp4::kE4M3Max * scale * (1 + 0x1p-21));
  if (from.is_cpu()) {
    check_floats(from, 2, kName, "x");
    clipped.add_(round_on_cpu(from.contiguous(), to, static_cast<float>(scale), limit));
    return;
  }
  to.copy_(through_e4m3(from, at::full({}, scale, from.options().dtype(at::kFloat))));
  clipped.add_(from.abs().gt(limit).sum());
}

void check_input(const Tensor& x) {
  check(x.defined() && x.dim() == 2 && at::isFloatingType(x.scalar_type()), kName,
        "x: expected floats with two dimensions, found {}", describe(x));
}

Tensor straight_through(const Tensor& x, const Tensor& y) {
  if (recording({&x}))
    record(kName, y, {x}, {}, [](const Tensor& grad, Tensors) -> Tensors { return {grad}; });
  return y;
}

}  // namespace

float fp8_scale(float amax, nvfp4::GlobalScale rule) {
  check(std::isfinite(amax) && amax >= 0, "fp8_scale",
        "expected a finite amax that is not negative, found {}", amax);
  if (amax == 0) return 1.0f;
  // A denormal scale would lose bits of its own, and readers expect a normal number.
  const float exact = std::max(amax / nvfp4::kE4M3Max, 0x1p-99f);
  if (rule == nvfp4::GlobalScale::amax) return exact;
  int exponent = 0;
  const bool power = std::frexp(exact, &exponent) == 0.5f;
  return std::ldexp(1.0f, power ? exponent - 1 : exponent);
}

// A tensor as divisor: by a number a GPU multiplies with its reciprocal, whose rounding is another.
// PyTorch's cast gives NaN beyond 464, hence the limits before it.
Tensor through_e4m3(const Tensor& x, const Tensor& scale) {
  check_size(scale.numel(), 1, kName, "scales");
  if (x.is_cpu()) {
    const Tensor from = x.to(at::kFloat).contiguous(), to = at::empty_like(from);
    round_on_cpu(from, to, scale.item<float>(), std::numeric_limits<float>::infinity());
    return to;
  }
  return x.to(at::kFloat)
      .div(scale)
      .clamp_(-nvfp4::kE4M3Max, nvfp4::kE4M3Max)
      .to(at::kFloat8_e4m3fn)
      .to(at::kFloat)
      .mul_(scale);
}

Tensor fake_quantize_fp8(const Tensor& x, double scale, const Tensor& clipped) {
  check_input(x);
  check_tensor(clipped, at::kLong, 0, kName, "clipped");
  const Tensor y = named(
      kName,
      [&] {
        const at::NoGradGuard no_grad;
        const Tensor result = at::empty_like(x, at::MemoryFormat::Contiguous);
        round_rows(x, result, scale, clipped);
        return result;
      },
      x);
  return straight_through(x, y);
}

Tensor fake_quantize_fp8(const Tensor& x, const std::vector<double>& scales, const Tensor& offsets,
                         const Tensor& clipped) {
  check_input(x);
  check(x.is_cpu(), kName, "{}: experts' inputs become FP8 on a CPU so far; use --device cpu",
        x.device().str());
  const auto experts = static_cast<std::int64_t>(scales.size());
  check_tensor(clipped, at::kLong, 1, kName, "clipped");
  check_size(clipped.size(0), experts, kName, "experts of clipped");
  check_tensor(offsets, at::kInt, 1, kName, "offsets");
  check_size(offsets.size(0), experts + 1, kName, "offsets");
  const Tensor y = named(
      kName,
      [&] {
        const at::NoGradGuard no_grad;
        const Tensor result = at::empty_like(x, at::MemoryFormat::Contiguous);
        const auto* end = offsets.const_data_ptr<std::int32_t>();
        check(end[0] == 0 && end[experts] == x.size(0), kName,
              "offsets: expected 0 to {}, found {} to {}", x.size(0), end[0], end[experts]);
        for (std::int64_t e = 0; e < experts; ++e)
          if (const std::int64_t rows = end[e + 1] - end[e]; rows > 0)
            round_rows(x.narrow(0, end[e], rows), result.narrow(0, end[e], rows),
                       scales[static_cast<std::size_t>(e)], clipped.select(0, e));
        return result;
      },
      x);
  return straight_through(x, y);
}

Tensor ship_fp8_(const Tensor& master, const Tensor& value, const Tensor& scale,
                 nvfp4::GlobalScale rule) {
  const at::NoGradGuard no_grad;
  check(master.sizes() == value.sizes() && scale.numel() == 1, "ship",
        "FP8: expected a value of the master's shape and one scale, found {} and {}",
        describe(value), describe(scale));
  const Tensor w = master.to(at::kBFloat16).to(at::kFloat);
  const Tensor most = w.numel() > 0 ? w.abs().max() : at::zeros({}, w.options());
  const auto amax = most.item<float>();
  if (!std::isfinite(amax)) return most;
  const float needed = fp8_scale(amax, rule);
  if (needed > scale.item<float>()) scale.fill_(needed);
  value.copy_(through_e4m3(w, scale));
  return most;
}

}  // namespace qad::ops
