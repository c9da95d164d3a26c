// Operators with a forward and a backward: FP32 on a CPU, FP32 or BF16 on a GPU. Tokens are flat: T
// tokens of all documents of a batch in one dimension, document i being rows [cu_seqlens[i],
// cu_seqlens[i+1]); so packed documents never see each other and no padding is computed. Each
// operator is declared once to PyTorch's dispatcher (TORCH_LIBRARY qad) and implemented here for
// the CPU; these functions are its C++ face, differentiable by autograd.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <utility>

#include "nvfp4/nvfp4.h"

namespace qad::ops {

// rows of weight [V, H] for ids int64 [T] -> [T, H]
at::Tensor embedding(const at::Tensor& weight, const at::Tensor& ids);

// How a result is quantised as the input of the product that reads it.
struct Quantizer {
  double global;
  nvfp4::BlockScale rule;
  at::Tensor clipped;  // int64 scalar on the values' device: grows by the number of values beyond
                       // 2688 * global
};

// y = x W^T + b: x [T, K], weight [N, K], bias [N] or undefined -> [T, N]. `packed`: x is what this
// quantizer made, and is saved for the backward pass in 4.5 bits a value (ops/pack.h).
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {},
                  const Quantizer* packed = nullptr);

// nvfp4::fake_quantize along the last dimension; the gradient passes straight through (design
// decision 7).
at::Tensor fake_quantize(const at::Tensor& x, const Quantizer& q);

// An operator that takes a quantizer gives the bits that fake_quantize makes of its result without
// one, in one pass over memory.

// w * x / sqrt(mean(x^2) + eps) over the last dimension
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps,
                    const Quantizer* q = nullptr);
// The residual stream and its norm: x + delta, and the above of that sum.
std::pair<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& delta,
                                               const at::Tensor& weight, double eps,
                                               const Quantizer* q = nullptr);

// Rotary embedding, half-split pairs (i, i + D/2). x [T, heads_total, D] of which the first
// `rotated` heads are turned and the rest copied; cos and sin [P, D/2] are rows picked by positions
// int64 [T].
at::Tensor rope(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                const at::Tensor& positions, std::int64_t rotated);

// Causal attention within documents. qkv [T, heads + 2 kv_heads, D] (queries, keys, values) -> [T,
// heads * D]; cu_seqlens int32 [documents + 1]. No document is longer than `longest` tokens
// (kernels of other devices cannot look). Query head h reads kv head h / (heads / kv_heads).
at::Tensor attention(const at::Tensor& qkv, const at::Tensor& cu_seqlens, std::int64_t longest,
                     std::int64_t heads, std::int64_t kv_heads, double scale);

// Keys and values as a cache of E4M3 codes gives them back (paged_attention.h): of qkv, as
// attention takes it, keys become e4m3(k / key_scale) * key_scale, nearest even, saturating at 448,
// values likewise by theirs, and queries stay. The gradient passes straight through. On any device.
at::Tensor fake_quantize_cache(const at::Tensor& qkv, std::int64_t heads, std::int64_t kv_heads,
                               double key_scale, double value_scale);

// silu(gate) * up: gate_up [T, 2F] (gate first) -> [T, F]
at::Tensor swiglu(const at::Tensor& gate_up, const Quantizer* q = nullptr);
// max(x, 0)^2: [T, F] -> [T, F]
at::Tensor relu2(const at::Tensor& x, const Quantizer* q = nullptr);

}  // namespace qad::ops
