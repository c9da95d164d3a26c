// Causal grouped-query attention within documents.
#include <cmath>

#include "ops/dispatch.h"
#include "ops/ops.h"

namespace qad::ops {

using at::Tensor;

Tensor attention(const Tensor& qkv, const Tensor& cu_seqlens, std::int64_t heads,
                 std::int64_t kv_heads, double scale) {
  check_floats(qkv, 3, "attention", "qkv");
  check_ints(cu_seqlens, at::kInt, "attention", "cu_seqlens");
  check(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "attention",
        "heads: expected a multiple of {} key-value heads, found {}", kv_heads, heads);
  check_size(qkv.size(1), heads + 2 * kv_heads, "attention", "heads of qkv");
  const auto at = cu_seqlens.contiguous();
  const std::int32_t* cu = at.const_data_ptr<std::int32_t>();
  std::vector<Tensor> out;
  for (std::int64_t i = 0; i + 1 < at.numel(); ++i) {
    const std::int64_t n = cu[i + 1] - cu[i];
    const Tensor doc = qkv.narrow(0, cu[i], n).transpose(0, 1);  // [heads, n, D]
    const Tensor q = doc.narrow(0, 0, heads);
    const Tensor k = doc.narrow(0, heads, kv_heads).repeat_interleave(heads / kv_heads, 0);
    const Tensor v =
        doc.narrow(0, heads + kv_heads, kv_heads).repeat_interleave(heads / kv_heads, 0);
    const Tensor mask = at::ones({n, n}, at::kBool).triu(1);
    const Tensor s = at::matmul(q, k.transpose(1, 2)).mul(scale).masked_fill(mask, -INFINITY);
    out.push_back(at::matmul(s.softmax(-1), v).transpose(0, 1).reshape({n, -1}));
  }
  return at::cat(out);
}

}  // namespace qad::ops
