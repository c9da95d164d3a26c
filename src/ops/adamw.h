// AdamW (Loshchilov, Hutter 2019) as torch.optim.AdamW computes it, in one pass over gradient,
// moments and master, and the gradient norm that clipping needs. Nothing here waits for a GPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace qad::ops {

struct AdamW {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  std::int64_t step;       // of this update, from 1: bias correction
  std::uint64_t seed = 0;  // of the rounding of moments; one for each tensor, or they share draws
};

// Weights with the precision of FP32: as FP32, or split into their BF16 rounding, which a forward
// pass can read where it lies, and 16 bits that complete it (split_master of ops/adamw_step.h).
struct Master {
  at::Tensor high;  // FP32; split: BF16
  at::Tensor low;   // split: int16, of the same shape; else undefined

  Master() = default;
  Master(at::Tensor fp32)  // not explicit: FP32 weights are masters as they are
      : high(std::move(fp32)) {}
  Master(at::Tensor high, at::Tensor low) : high(std::move(high)), low(std::move(low)) {}
  bool split() const { return low.defined(); }
};
// A split master on the weights' device. BF16 weights become its high half themselves, those of
// another type are copied.
Master split_master(const at::Tensor& weights);

// A moment in 8 bits: codes uint8, one an element; scales FP32, one for each 256 elements.
struct Moment8 {
  at::Tensor codes, scales;
};
Moment8 zero_moment8(const at::Tensor& master);  // of that shape and device

// Updates master, m and v (both FP32, or both BF16 and rounded at random with their own
// expectation) in place, all of them contiguous; a split master gets the bits of an FP32 one. The
// gradient (FP32; on a GPU also BF16) is multiplied by factor (FP32 scalar on the same device;
// undefined: 1). Where that is NaN nothing is changed: so a step is called off without waiting for
// the device.
// Returns the largest magnitude of bf16(master), or of the high half, afterwards (FP32 scalar): NaN
// if any is, else infinite if any is.
at::Tensor adamw_(const AdamW& a, const Master& master, const at::Tensor& grad, const at::Tensor& m,
                  const at::Tensor& v, const at::Tensor& factor = {});
at::Tensor adamw_(const AdamW& a, const Master& master, const at::Tensor& grad, const Moment8& m,
                  const Moment8& v, const at::Tensor& factor = {});

// The same of many tensors, alike but in shape, weight decay and seed (those of `a` count for
// none): on a GPU in a launch for every 128. Returns FP32 [items].
struct AdamWItem {
  Master master;
  at::Tensor grad;
  at::Tensor m, v;  // or
  Moment8 m8, v8;
  double weight_decay = 0;
  std::uint64_t seed = 0;
};
at::Tensor adamw_(const AdamW& a, const std::vector<AdamWItem>& items,
                  const at::Tensor& factor = {});

// The square root of the sum of squares over all gradients (FP32; on a GPU also BF16), summed in
// FP64 in an order that only sizes decide: an FP64 scalar on their device.
at::Tensor gradient_norm(const std::vector<at::Tensor>& grads);

}  // namespace qad::ops
