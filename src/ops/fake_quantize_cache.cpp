// FP8 fake quantisation of keys and values, of PyTorch's own operators: two values in five of what
// attention reads, so one pass more over them is not worth a kernel a device.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>

#include "ops/autograd.h"
#include "ops/checks.h"
#include "ops/fp8.h"
#include "ops/ops.h"

namespace qad::ops {
namespace {

using at::Tensor;

constexpr const char* kName = "fake_quantize_cache";

Tensor rounded(const Tensor& x, double scale) {
  return through_e4m3(x, at::full({}, scale, x.options().dtype(at::kFloat)));
}

}  // namespace

Tensor fake_quantize_cache(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads,
                           double key_scale, double value_scale) {
  check(qkv.defined() && qkv.dim() == 3 && at::isFloatingType(qkv.scalar_type()), kName,
        "qkv: expected floats with three dimensions, found {}", describe(qkv));
  check(heads > 0 && kv_heads > 0, kName, "expected heads, found {} and {} for keys and values",
        heads, kv_heads);
  check_size(qkv.size(1), heads + 2 * kv_heads, kName, "heads of qkv");
  check_cache_scales(true, key_scale, value_scale, kName);
  const Tensor out = named(
      kName,
      [&] {
        const at::NoGradGuard no_grad;
        const Tensor result = at::empty_like(qkv, at::MemoryFormat::Contiguous);
        const auto from = qkv.split_with_sizes({heads, kv_heads, kv_heads}, 1),
                   to = result.split_with_sizes({heads, kv_heads, kv_heads}, 1);
        to[0].copy_(from[0]);
        to[1].copy_(rounded(from[1], key_scale));
        to[2].copy_(rounded(from[2], value_scale));
        return result;
      },
      qkv);
  if (recording({&qkv}))
    record(kName, out, {qkv}, {}, [](const Tensor& grad, Tensors) -> Tensors { return {grad}; });
  return out;
}

}  // namespace qad::ops
