// Causal grouped-query attention within documents: the operator around attention_kernel. Work is
// handed out by document and key-value head, each computed the same on any thread, so packing and
// thread count change no bit.
#include "ops/attention_kernel.h"
#include "ops/autograd.h"
#include "ops/dispatch.h"
#include "ops/documents.h"
#include "ops/ops.h"
#include "ops/tasks.h"

namespace qad::ops {
namespace {

using at::Tensor;

struct Shape {
  std::int64_t heads, kv_heads, dim, documents, longest = 0;
  const std::int32_t* starts;
  float scale;
  std::int64_t group() const { return heads / kv_heads; }
  std::int64_t stride() const { return (heads + 2 * kv_heads) * dim; }
};

Shape check_shape(const Tensor& qkv, const Tensor& cu_seqlens, std::int64_t longest,
                  std::int64_t heads, std::int64_t kv_heads, double scale) {
  check_floats(qkv, 3, "attention", "qkv");
  check(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "attention",
        "heads: expected a multiple of {} key-value heads, found {}", kv_heads, heads);
  check_size(qkv.size(1), heads + 2 * kv_heads, "attention", "heads of qkv");
  const Documents d = checked_documents(cu_seqlens, qkv.size(0), longest, "attention");
  return {heads, kv_heads, qkv.size(2), d.count, d.longest, d.starts, static_cast<float>(scale)};
}

// The query heads [first, first + group) and their key-value head in a document.
AttentionHeads heads_of(const Shape& s, const float* qkv, std::int64_t document, std::int64_t first,
                        std::int64_t group) {
  const float* row = qkv + s.starts[document] * s.stride();
  const float* k = row + (s.heads + first / s.group()) * s.dim;
  return {.q = row + first * s.dim,
          .k = k,
          .v = k + s.kv_heads * s.dim,
          .stride = s.stride(),
          .tokens = s.starts[document + 1] - s.starts[document],
          .group = group,
          .dim = s.dim,
          .scale = s.scale};
}

std::tuple<Tensor, Tensor> attention_cpu(const Tensor& qkv, const Tensor& cu_seqlens,
                                         std::int64_t longest, std::int64_t heads,
                                         std::int64_t kv_heads, double scale) {
  const Shape s = check_shape(qkv, cu_seqlens, longest, heads, kv_heads, scale);
  const Tensor in = qkv.contiguous();
  const std::int64_t tokens = in.size(0);
  Tensor out = at::empty({tokens, heads * s.dim}, in.options());
  Tensor lse = at::empty({heads, tokens}, in.options());
  const float* from = in.const_data_ptr<float>();
  float *to = out.data_ptr<float>(), *log_sums = lse.data_ptr<float>();
  // Heads of a group share packed keys and values, unless that leaves threads without work.
  const bool grouped = s.documents * kv_heads >= 4 * at::get_num_threads();
  const std::int64_t group = grouped ? s.group() : 1, per_document = heads / group;
  for_tasks(s.documents * per_document, attention_scratch(s.longest, s.dim),
            [&](std::int64_t task, float* scratch) {
              const std::int64_t document = task / per_document,
                                 first = task % per_document * group;
              const std::int64_t row = s.starts[document];
              attention_forward(heads_of(s, from, document, first, group),
                                to + (row * heads + first) * s.dim, heads * s.dim,
                                log_sums + first * tokens + row, tokens, scratch);
            });
  return {out, lse};
}

// `out` is what kernels of other devices read; here whole rows of scores are in a cache anyway.
Tensor attention_backward_cpu(const Tensor& grad, const Tensor& qkv, const Tensor& /*out*/,
                              const Tensor& lse, const Tensor& cu_seqlens, std::int64_t longest,
                              std::int64_t heads, std::int64_t kv_heads, double scale) {
  const Shape s = check_shape(qkv, cu_seqlens, longest, heads, kv_heads, scale);
  const Tensor in = qkv.contiguous(), g = grad.contiguous();
  const std::int64_t tokens = in.size(0), group = s.group();
  Tensor out = at::empty_like(in);
  const float *from = in.const_data_ptr<float>(), *gp = g.const_data_ptr<float>();
  const float* log_sums = lse.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  for_tasks(s.documents * kv_heads, attention_scratch(s.longest, s.dim),
            [&](std::int64_t task, float* scratch) {
              const std::int64_t document = task / kv_heads, kv = task % kv_heads;
              const std::int64_t row = s.starts[document], first = kv * group;
              float* dq = to + row * s.stride() + first * s.dim;
              float* dk = to + row * s.stride() + (heads + kv) * s.dim;
              attention_backward(heads_of(s, from, document, first, group),
                                 gp + (row * heads + first) * s.dim, heads * s.dim,
                                 log_sums + first * tokens + row, tokens, dq, dk,
                                 dk + kv_heads * s.dim, scratch);
            });
  return out;
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  // lse is for the backward pass of the same device: its shape and its base are the kernel's own.
  m.def(
      "attention(Tensor qkv, Tensor cu_seqlens, int longest, int heads, int kv_heads, float scale) "
      "-> (Tensor out, Tensor lse)");
  m.def(
      "attention_backward(Tensor grad, Tensor qkv, Tensor out, Tensor lse, Tensor cu_seqlens, int "
      "longest, int heads, int kv_heads, float scale) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("attention", attention_cpu);
  m.impl("attention_backward", attention_backward_cpu);
}

std::tuple<Tensor, Tensor> forward(const Tensor& qkv, const Tensor& cu_seqlens,
                                   std::int64_t longest, std::int64_t heads, std::int64_t kv_heads,
                                   double scale) {
  static const auto op = find_op<decltype(attention_cpu)>("qad::attention");
  return call_kernel(op, qkv, cu_seqlens, longest, heads, kv_heads, scale);
}

}  // namespace

Tensor attention(const Tensor& qkv, const Tensor& cu_seqlens, std::int64_t longest,
                 std::int64_t heads, std::int64_t kv_heads, double scale) {
  auto [out, lse] = forward(qkv, cu_seqlens, longest, heads, kv_heads, scale);
  if (recording({&qkv}))
    record("attention", out, {qkv}, {qkv, out, lse, cu_seqlens},
           [=](const Tensor& grad, Tensors saved) -> Tensors {
             static const auto op =
                 find_op<decltype(attention_backward_cpu)>("qad::attention_backward");
             return {call_kernel(op, grad, saved[0], saved[1], saved[2], saved[3], longest, heads,
                                 kv_heads, scale)};
           });
  return out;
}

}  // namespace qad::ops
