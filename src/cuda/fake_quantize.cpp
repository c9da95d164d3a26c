// NVFP4 fake quantisation on CUDA: checks and registration.
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

Tensor fake_quantize_cuda(const Tensor& x, double global, std::int64_t rule,
                          const Tensor& clipped) {
  const Type type = type_of(x, "fake_quantize", "x");
  check(x.dim() >= 1, "fake_quantize", "x: expected at least one dimension");
  check(clipped.defined(), "fake_quantize",
        "clipped: expected a counter, found an undefined tensor");
  const Quantization q = quantization_of(global, rule, clipped, x, "fake_quantize");
  const Tensor in = x.contiguous();
  Tensor out = at::empty_like(in);
  const std::int64_t cols = in.size(-1), rows = cols == 0 ? 0 : in.numel() / cols;
  const Launch launch(in, "fake_quantize");
  fake_quantize(type, in.const_data_ptr(), rows, cols, q, out.data_ptr(), launch.stream());
  launch.done(in);
  return out;
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("fake_quantize", fake_quantize_cuda);
}

}  // namespace
}  // namespace qad::cuda
