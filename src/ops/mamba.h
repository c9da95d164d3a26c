// What a Mamba-2 mixer (Dao and Gu 2024, arXiv 2405.21060) computes between its two projections,
// over flat tokens as ops/ops.h has them: FP32 on a CPU. The input projection gives for each token
// z [D] | x [D] | B [G N] | C [G N] | dt [heads], D = heads * head_dim; the convolution takes
// x, B and C, the scan its result and dt, the norm the scan's result and z. Inputs may be columns
// of a wider matrix: of their strides only the last must be 1.
#pragma once

#include <limits>

#include "ops/ops.h"

namespace qad::ops {

// silu(causal depthwise convolution): x [T, C], weight [C, 1, K], whose last tap meets the token
// itself, bias [C] or undefined, cu_seqlens int32 [documents + 1] -> [T, C]. No tap reaches into
// another document.
at::Tensor causal_conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                       const at::Tensor& cu_seqlens);

// The state space model's parameters, [heads] each: the decay of a time step dt is exp(dt A), A =
// -exp(a_log).
struct ScanParameters {
  at::Tensor dt_bias, a_log, d;
};
struct ScanShape {
  std::int64_t head_dim = 0, groups = 1;
  // The time step is softplus(dt + dt_bias), within these limits.
  double least_step = 0, most_step = std::numeric_limits<double>::infinity();
};
// The selective scan of each document and head h, from the state S = 0 in R^(head_dim x N), with B
// and C of group h / (heads / groups):
//   S = exp(dt A) S + dt x B^T,  y = S C + d x.
// xbc [T, D + 2 G N], dt [T, heads] -> y [T, D]. No document is longer than `longest` tokens.
at::Tensor mamba_scan(const at::Tensor& xbc, const at::Tensor& dt, const ScanParameters& parameters,
                      const at::Tensor& cu_seqlens, std::int64_t longest, const ScanShape& shape);

// RMSNorm of y silu(z) in `groups` groups of columns, each by its own mean square: y, z [T, D],
// weight [D] -> [T, D]. The quantizer as in ops/ops.h.
at::Tensor gated_rms_norm(const at::Tensor& y, const at::Tensor& z, const at::Tensor& weight,
                          std::int64_t groups, double eps, const Quantizer* q = nullptr);

// Where documents that are read in pieces keep their states: document i goes on from what it left
// in slot slots[i], unless all lengths[i] of its tokens are here, and leaves what follows there.
// Both int32 [documents], on the tokens' device; no two documents may have one slot.
struct StateSlots {
  at::Tensor lengths, slots;
};
// The above over pieces. state [slots, K - 1, C]: the inputs before the next token, oldest first.
// No gradient: an error where one would be recorded. On a CPU a token's result has the same bits
// whatever is beside it and however its document is cut into pieces.
at::Tensor causal_conv_cached(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                              const at::Tensor& cu_seqlens, const StateSlots& slots,
                              const at::Tensor& state);
// state [slots, heads, head_dim, N] FP32.
at::Tensor mamba_scan_cached(const at::Tensor& xbc, const at::Tensor& dt,
                             const ScanParameters& parameters, const at::Tensor& cu_seqlens,
                             const StateSlots& slots, const at::Tensor& state,
                             const ScanShape& shape);

}  // namespace qad::ops
