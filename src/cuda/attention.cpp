// Attention on CUDA. BF16 documents of one length and heads of 64 or 128 go to cuDNN, other BF16 to
// PyTorch's variable-length flash attention where it applies (head sizes that are multiples of 8),
// the rest to our own plain kernels. Measured on an H200 (cuDNN 9.19, 16384 tokens), forward and
// backward: 14/2 heads of 64 and documents of 1024 tokens, flash 0.22 + 0.49 ms, cuDNN 0.10 + 0.37;
// of 4096, 0.48 + 1.33 and 0.30 + 0.87; 28/4 heads of 128, 0.54 + 1.66 and 0.25 + 1.05, then 1.49 +
// 4.53 and 0.79 + 2.54. Both add up the queries' gradients in an order that varies, unless a
// document is short. cuDNN's packed form is of no use as PyTorch 2.11 calls it: it reads views at
// the wrong places, plans anew on every call (41 ms) and gave wrong gradients to contiguous copies.
#include <ATen/Context.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_backward.h>
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

// Starts on the CPU are checked. On the GPU they would have to be waited for.
Documents documents(const Tensor& cu_seqlens, std::int64_t longest, const Tensor& qkv) {
  const std::int64_t tokens = qkv.size(0), count = cu_seqlens.numel() - 1;
  if (cu_seqlens.scalar_type() != at::kInt || !cu_seqlens.is_contiguous() || count < 0)
    fail("attention", "cu_seqlens: expected contiguous document starts of int32, found {}",
         describe(cu_seqlens));
  if (!cu_seqlens.is_cpu()) {
    check_beside(cu_seqlens, at::kInt, qkv, "attention", "cu_seqlens");
    return {cu_seqlens, count, longest};
  }
  const std::int32_t* starts = cu_seqlens.const_data_ptr<std::int32_t>();
  check(starts[0] == 0 && starts[count] == tokens, "attention",
        "cu_seqlens: expected to run from 0 to {} tokens, found {} to {}", tokens, starts[0],
        starts[count]);
  for (std::int64_t i = 0; i < count; ++i) {
    check(starts[i] <= starts[i + 1], "attention",
          "cu_seqlens: expected rising values, found {} before {}", starts[i], starts[i + 1]);
    check(starts[i + 1] - starts[i] <= longest, "attention",
          "cu_seqlens: expected documents of at most {} tokens, found one of {}", longest,
          starts[i + 1] - starts[i]);
  }
  return {cu_seqlens.to(qkv.device(), /*non_blocking=*/true), count, longest};
}

enum class Kernels { cudnn, flash, own };

// If so many documents of at most that length are all the tokens, each has that length. cuDNN
// prepares a plan for every shape, which takes it 50 ms each way: lengths are multiples of 128, so
// that they are few.
Kernels kernels_for(Type type, const Tensor& qkv, const Documents& d) {
  const std::int64_t tokens = qkv.size(0), dim = qkv.size(2);
  if (type != Type::bf16 || dim % 8 != 0 || tokens == 0) return Kernels::own;
  int major = 0;  // of the compute capability; measured on 9 alone
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, qkv.get_device());
  const bool equal = d.count * d.longest == tokens && d.longest % 128 == 0;
  const bool cudnn =
      equal && (dim == 64 || dim == 128) && major >= 9 && at::globalContext().hasCuDNN();
  return cudnn ? Kernels::cudnn : Kernels::flash;
}

struct Call {
  Type type;
  Tensor qkv, q, k, v;
  Documents documents;
  AttentionShape shape;
  Kernels kernels;
  // One query is a special case in flash attention, which would turn lse around.
  std::int64_t longest() const { return std::max<std::int64_t>(documents.longest, 2); }
  // [tokens, heads, D], or its flat form, as cuDNN takes it: [documents, heads, longest, D].
  Tensor dense(const Tensor& t) const {
    return t.view({documents.count, documents.longest, -1, shape.dim}).transpose(1, 2);
  }
};

Call prepare(const Tensor& qkv, const Tensor& cu_seqlens, std::int64_t longest, std::int64_t heads,
             std::int64_t kv_heads, double scale) {
  const Type type = check_values(qkv, 3, "attention", "qkv");
  check(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "attention",
        "heads: expected a multiple of {} key-value heads, found {}", kv_heads, heads);
  check_size(qkv.size(1), heads + 2 * kv_heads, "attention", "heads of qkv");
  const std::int64_t dim = qkv.size(2);
  check(dim >= 1 && dim <= kMaxHeadDim, "attention", "head size: expected 1 to {}, found {}",
        kMaxHeadDim, dim);
  const Tensor in = qkv.contiguous();
  Documents docs = documents(cu_seqlens, longest, in);
  const Kernels kernels = kernels_for(type, in, docs);
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
          kernels};
}

struct DenseHeads {
  Tensor q, k, v;
};
DenseHeads dense_heads(const Call& c) {
  const Tensor all = c.dense(c.qkv);
  const std::int64_t heads = c.shape.heads, kv = c.shape.kv_heads;
  return {all.narrow(1, 0, heads), all.narrow(1, heads, kv), all.narrow(1, heads + kv, kv)};
}

// lse: natural logarithms of the sums of exponentials, [heads, tokens], or as cuDNN keeps them,
// [documents, heads, longest, 1].
std::tuple<Tensor, Tensor> attention_cuda(const Tensor& qkv, const Tensor& cu_seqlens,
                                          std::int64_t longest, std::int64_t heads,
                                          std::int64_t kv_heads, double scale) {
  const Call c = prepare(qkv, cu_seqlens, longest, heads, kv_heads, scale);
  const Launch launch(c.qkv, "attention");
  const std::int64_t tokens = c.shape.tokens, width = heads * c.shape.dim;
  if (c.kernels == Kernels::cudnn) {
    const DenseHeads d = dense_heads(c);
    const auto result = named(
        "attention",
        [&] {
          return at::_scaled_dot_product_cudnn_attention(
              d.q, d.k, d.v, /*attn_bias=*/{}, /*compute_log_sumexp=*/true, /*dropout_p=*/0.0,
              /*is_causal=*/true, /*return_debug_mask=*/false, scale);
        },
        c.qkv, c.documents.starts);
    return {std::get<0>(result).transpose(1, 2).reshape({tokens, width}), std::get<1>(result)};
  }
  if (c.kernels == Kernels::flash) {
    auto [out, lse, state, unused, mask] = named(
        "attention",
        [&] {
          return at::_flash_attention_forward(
              c.q, c.k, c.v, c.documents.starts, c.documents.starts, c.longest(), c.longest(),
              /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, scale);
        },
        c.qkv, c.documents.starts);
    return {out.reshape({tokens, width}), lse};
  }
  Tensor out = at::empty({tokens, width}, c.qkv.options());
  Tensor lse = at::empty({heads, tokens}, c.qkv.options().dtype(at::kFloat));
  attention(c.type, c.shape, c.qkv.const_data_ptr(), out.data_ptr(), lse.data_ptr<float>(),
            launch.stream());
  launch.done(c.qkv, c.documents.starts);
  return {out, lse};
}

Tensor attention_backward_cuda(const Tensor& grad, const Tensor& qkv, const Tensor& out,
                               const Tensor& lse, const Tensor& cu_seqlens, std::int64_t longest,
                               std::int64_t heads, std::int64_t kv_heads, double scale) {
  const Call c = prepare(qkv, cu_seqlens, longest, heads, kv_heads, scale);
  const auto beside = [&](const Tensor& t, at::ScalarType type, const char* name,
                          std::int64_t elements) {
    check_size(t.numel(), elements, "attention_backward", std::string("elements of ") + name);
    return check_beside(t, type, c.qkv, "attention_backward", name);
  };
  const std::int64_t tokens = c.shape.tokens, dim = c.shape.dim;
  const Tensor g = beside(grad, c.qkv.scalar_type(), "grad", tokens * heads * dim);
  const Tensor y = beside(out, c.qkv.scalar_type(), "out", tokens * heads * dim);
  const Tensor sums = beside(lse, at::kFloat, "lse", heads * tokens);
  const Launch launch(c.qkv, "attention_backward");
  const Tensor none = at::empty({0}, c.qkv.options().dtype(at::kLong));  // dropout's state
  if (c.kernels == Kernels::cudnn) {
    const DenseHeads d = dense_heads(c);
    const auto [dq, dk, dv] = named(
        "attention_backward",
        [&] {
          return at::_scaled_dot_product_cudnn_attention_backward(
              c.dense(g), d.q, d.k, d.v, c.dense(y), sums, none, none, /*attn_bias=*/Tensor(),
              /*cum_seq_q=*/Tensor(), /*cum_seq_k=*/Tensor(), longest, longest, /*dropout_p=*/0.0,
              /*is_causal=*/true, scale);
        },
        g, c.qkv, c.documents.starts);
    return at::cat({dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)}, 2)
        .view(c.qkv.sizes());
  }
  if (c.kernels == Kernels::flash) {
    const auto [dq, dk, dv] = named(
        "attention_backward",
        [&] {
          return at::_flash_attention_backward(
              g.view({tokens, heads, dim}), c.q, c.k, c.v, y.view({tokens, heads, dim}), sums,
              c.documents.starts, c.documents.starts, c.longest(), c.longest(), /*dropout_p=*/0.0,
              /*is_causal=*/true, none, none, scale);
        },
        g, c.qkv, c.documents.starts);
    return at::cat({dq, dk, dv}, 1);
  }
  Tensor dqkv = at::empty_like(c.qkv), delta = at::empty_like(sums);
  attention_backward(c.type, c.shape, g.const_data_ptr(), c.qkv.const_data_ptr(),
                     sums.const_data_ptr<float>(), dqkv.data_ptr(), delta.data_ptr<float>(),
                     launch.stream());
  launch.done(g, c.qkv, c.documents.starts);
  return dqkv;
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("attention", attention_cuda);
  m.impl("attention_backward", attention_backward_cuda);
}

}  // namespace
}  // namespace qad::cuda
