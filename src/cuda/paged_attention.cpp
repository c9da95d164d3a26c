// Attention over a paged cache on CUDA: our own kernels for every shape. Nothing here waits for the
// device.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

constexpr const char* kName = "paged_attention";

void check_cache(const Tensor& cache, bool codes, const Tensor& qkv, std::int64_t kv_heads,
                 const char* name) {
  const at::ScalarType type = codes ? at::kByte : qkv.scalar_type();
  if (!cache.defined() || cache.scalar_type() != type || cache.device() != qkv.device() ||
      cache.dim() != 4 || !cache.is_contiguous() || cache.size(1) == 0 ||
      cache.size(2) != kv_heads || cache.size(3) != qkv.size(2))
    fail(kName, "{}: expected contiguous [pages, page tokens, {}, {}] of {} on {}, found {}", name,
         kv_heads, qkv.size(2), c10::toString(type), qkv.device().str(), describe(cache));
}

Tensor paged_attention_cuda(const Tensor& qkv, const Tensor& keys, const Tensor& values,
                            const Tensor& starts, const Tensor& lengths, const Tensor& pages,
                            std::int64_t longest_new, std::int64_t longest, std::int64_t heads,
                            std::int64_t kv_heads, double scale, double key_scale,
                            double value_scale) {
  const Type type = check_values(qkv, 3, kName, "qkv");
  check(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, kName,
        "heads: expected a multiple of {} key-value heads, found {}", kv_heads, heads);
  check_size(qkv.size(1), heads + 2 * kv_heads, kName, "heads of qkv");
  const std::int64_t dim = qkv.size(2);
  check(dim >= 1 && dim <= kMaxHeadDim, kName, "head size: expected 1 to {}, found {}", kMaxHeadDim,
        dim);
  const bool codes = keys.defined() && keys.scalar_type() == at::kByte;
  check_cache(keys, codes, qkv, kv_heads, "keys");
  check_cache(values, codes, qkv, kv_heads, "values");
  ops::check_cache_scales(codes, key_scale, value_scale, kName);
  check_size(values.size(0), keys.size(0), kName, "pages of values");
  check_size(values.size(1), keys.size(1), kName, "page tokens of values");
  const Tensor in = qkv.contiguous();
  const Tensor from = check_beside(starts, at::kInt, qkv, kName, "starts");
  const Tensor tokens = check_beside(lengths, at::kInt, qkv, kName, "lengths");
  const Tensor table = check_beside(pages, at::kInt, qkv, kName, "pages");
  check(table.dim() == 2, kName, "pages: expected [S, P], found {}", describe(table));
  check_size(tokens.numel(), table.size(0), kName, "values of lengths");
  check_size(from.numel(), table.size(0) + 1, kName, "values of starts");
  check(table.size(0) > 0 || in.size(0) == 0, kName,
        "starts: expected a sequence for the {} tokens, found none", in.size(0));
  const PagedShape shape{.tokens = in.size(0),
                         .heads = heads,
                         .kv_heads = kv_heads,
                         .dim = dim,
                         .sequences = table.size(0),
                         .pages_each = table.size(1),
                         .pages_held = keys.size(0),
                         .page_tokens = keys.size(1),
                         .longest_new = longest_new,
                         .longest = longest,
                         .starts = from.const_data_ptr<std::int32_t>(),
                         .lengths = tokens.const_data_ptr<std::int32_t>(),
                         .pages = table.const_data_ptr<std::int32_t>(),
                         .scale = static_cast<float>(scale),
                         .codes = codes,
                         .key_scale = static_cast<float>(key_scale),
                         .value_scale = static_cast<float>(value_scale)};
  const Launch launch(in, kName);
  Tensor out = at::empty({shape.tokens, heads * dim}, in.options());
  const int splits = paged_attention_splits(shape);
  const std::int64_t partials = splits > 1 ? splits * shape.tokens * heads * (dim + 2) : 0;
  Tensor partial = at::empty({partials}, in.options().dtype(at::kFloat));
  paged_attention(type, shape, in.const_data_ptr(), keys.data_ptr(), values.data_ptr(), splits,
                  partial.data_ptr<float>(), out.data_ptr(), launch.stream());
  launch.done(in, keys, from, tokens, table);
  return out;
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("paged_attention", paged_attention_cuda);
}

}  // namespace
}  // namespace qad::cuda
