// Attention on CUDA: PyTorch's variable-length flash attention where it applies (BF16, head sizes
// that are multiples of 8), else our own plain kernels. lse is the natural logarithm of the sum of
// exponentials [heads, tokens], as flash attention keeps it; the CPU keeps that of base 2. Only the
// backward pass of the same device reads it.
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

struct Documents {
  Tensor starts;  // on the GPU
  std::int64_t count, longest;
};

// Starts on the CPU are checked and give the longest document. On the GPU they would have to be
// waited for: then the longest may be as long as the batch, for which flash attention only starts
// blocks that find nothing to do.
Documents documents(const Tensor& cu_seqlens, const Tensor& qkv) {
  const std::int64_t tokens = qkv.size(0), count = cu_seqlens.numel() - 1;
  if (cu_seqlens.scalar_type() != at::kInt || !cu_seqlens.is_contiguous() || count < 0)
    fail("attention", "cu_seqlens: expected contiguous document starts of int32, found {}",
         describe(cu_seqlens));
  if (!cu_seqlens.is_cpu()) {
    check_beside(cu_seqlens, at::kInt, qkv, "attention", "cu_seqlens");
    return {cu_seqlens, count, tokens};
  }
  const std::int32_t* starts = cu_seqlens.const_data_ptr<std::int32_t>();
  check(starts[0] == 0 && starts[count] == tokens, "attention",
        "cu_seqlens: expected to run from 0 to {} tokens, found {} to {}", tokens, starts[0],
        starts[count]);
  std::int64_t longest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    check(starts[i] <= starts[i + 1], "attention",
          "cu_seqlens: expected rising values, found {} before {}", starts[i], starts[i + 1]);
    longest = std::max<std::int64_t>(longest, starts[i + 1] - starts[i]);
  }
  return {cu_seqlens.to(qkv.device()), count, longest};
}

struct Call {
  Type type;
  Tensor qkv, q, k, v;
  Documents documents;
  AttentionShape shape;
  bool flash;
  // One query is a special case in flash attention, which would turn lse around.
  std::int64_t longest() const { return std::max<std::int64_t>(documents.longest, 2); }
};

Call prepare(const Tensor& qkv, const Tensor& cu_seqlens, std::int64_t heads, std::int64_t kv_heads,
             double scale) {
  const Type type = check_values(qkv, 3, "attention", "qkv");
  check(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "attention",
        "heads: expected a multiple of {} key-value heads, found {}", kv_heads, heads);
  check_size(qkv.size(1), heads + 2 * kv_heads, "attention", "heads of qkv");
  const std::int64_t dim = qkv.size(2);
  check(dim >= 1 && dim <= kMaxHeadDim, "attention", "head size: expected 1 to {}, found {}",
        kMaxHeadDim, dim);
  const Tensor in = qkv.contiguous();
  Documents docs = documents(cu_seqlens, in);
  const AttentionShape shape{in.size(0),
                             heads,
                             kv_heads,
                             dim,
                             docs.count,
                             docs.starts.const_data_ptr<std::int32_t>(),
                             static_cast<float>(scale)};
  return {type,
          in,
          in.narrow(1, 0, heads),
          in.narrow(1, heads, kv_heads),
          in.narrow(1, heads + kv_heads, kv_heads),
          std::move(docs),
          shape,
          type == Type::bf16 && dim % 8 == 0 && in.size(0) > 0};
}

std::tuple<Tensor, Tensor> run_flash(const Call& c, double scale) {
  auto [out, lse, state, unused, mask] = at::_flash_attention_forward(
      c.q, c.k, c.v, c.documents.starts, c.documents.starts, c.longest(), c.longest(),
      /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, scale);
  return {out, lse};
}

std::tuple<Tensor, Tensor> attention_cuda(const Tensor& qkv, const Tensor& cu_seqlens,
                                          std::int64_t heads, std::int64_t kv_heads, double scale) {
  const Call c = prepare(qkv, cu_seqlens, heads, kv_heads, scale);
  const Launch launch(c.qkv, "attention");
  const std::int64_t tokens = c.shape.tokens;
  if (c.flash) {
    auto [out, lse] = run_flash(c, scale);
    return {out.reshape({tokens, heads * c.shape.dim}), lse};
  }
  Tensor out = at::empty({tokens, heads * c.shape.dim}, c.qkv.options());
  Tensor lse = at::empty({heads, tokens}, c.qkv.options().dtype(at::kFloat));
  attention(c.type, c.shape, c.qkv.const_data_ptr(), out.data_ptr(), lse.data_ptr<float>(),
            launch.stream());
  launch.done();
  return {out, lse};
}

Tensor attention_backward_cuda(const Tensor& grad, const Tensor& qkv, const Tensor& lse,
                               const Tensor& cu_seqlens, std::int64_t heads, std::int64_t kv_heads,
                               double scale) {
  const Call c = prepare(qkv, cu_seqlens, heads, kv_heads, scale);
  const Tensor g = check_beside(grad, c.qkv.scalar_type(), c.qkv, "attention_backward", "grad");
  const Tensor sums = check_beside(lse, at::kFloat, c.qkv, "attention_backward", "lse");
  check_size(g.numel(), c.shape.tokens * heads * c.shape.dim, "attention_backward",
             "elements of grad");
  check_size(sums.numel(), heads * c.shape.tokens, "attention_backward", "elements of lse");
  const Launch launch(c.qkv, "attention_backward");
  if (c.flash) {
    // Flash attention's backward pass reads the output, which the operator's does not receive.
    const Tensor out = std::get<0>(run_flash(c, scale));
    const Tensor none = at::empty({0}, c.qkv.options().dtype(at::kLong));  // dropout's state
    auto [dq, dk, dv] = at::_flash_attention_backward(
        g.view({c.shape.tokens, heads, c.shape.dim}), c.q, c.k, c.v, out, sums, c.documents.starts,
        c.documents.starts, c.longest(), c.longest(), /*dropout_p=*/0.0, /*is_causal=*/true, none,
        none, scale);
    return at::cat({dq, dk, dv}, 1);
  }
  Tensor out = at::empty_like(c.qkv), delta = at::empty_like(sums);
  attention_backward(c.type, c.shape, g.const_data_ptr(), c.qkv.const_data_ptr(),
                     sums.const_data_ptr<float>(), out.data_ptr(), delta.data_ptr<float>(),
                     launch.stream());
  launch.done();
  return out;
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("attention", attention_cuda);
  m.impl("attention_backward", attention_backward_cuda);
}

}  // namespace
}  // namespace qad::cuda
