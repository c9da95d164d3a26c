// NVFP4 fake quantisation on CUDA: checks and registration.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

// `clipped` stays on the GPU: reading it is the caller's wait, if he wants the number.
std::tuple<Tensor, Tensor> fake_quantize_cuda(const Tensor& x, double global, std::int64_t rule) {
  const Type type = type_of(x, "fake_quantize", "x");
  check(x.dim() >= 1, "fake_quantize", "x: expected at least one dimension");
  const float g = static_cast<float>(global);
  check(g >= nvfp4::kMinGlobal && std::isfinite(nvfp4::kE2M1Max * (nvfp4::kE4M3Max * g)),
        "fake_quantize",
        "global scale: expected {} or more, and that 2688 times it is finite, found {}; was the "
        "tensor calibrated?",
        nvfp4::kMinGlobal, global);
  check(rule >= 0 && rule <= static_cast<int>(nvfp4::BlockScale::four_over_six), "fake_quantize",
        "block scale rule: expected 0, 1 or 2, found {}", rule);
  const Tensor in = x.contiguous();
  Tensor out = at::empty_like(in), clipped = at::zeros({}, in.options().dtype(at::kLong));
  const std::int64_t cols = in.size(-1), rows = cols == 0 ? 0 : in.numel() / cols;
  const Launch launch(in, "fake_quantize");
  fake_quantize(type, in.const_data_ptr(), rows, cols, g, static_cast<nvfp4::BlockScale>(rule),
                out.data_ptr(), clipped.data_ptr<std::int64_t>(), launch.stream());
  launch.done();
  return {out, clipped};
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("fake_quantize", fake_quantize_cuda);
}

}  // namespace
}  // namespace qad::cuda
