// Packing what linears save on CUDA: checks and registration.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

float checked_global(double global, std::string_view operation) {
  check(global >= nvfp4::kMinGlobal && std::isfinite(global), operation,
        "global scale: expected {} or more, found {}; was the tensor calibrated?",
        nvfp4::kMinGlobal, global);
  return static_cast<float>(global);
}

std::tuple<Tensor, Tensor> pack_cuda(const Tensor& x, double global) {
  const Type type = check_values(x, 2, "pack", "x");
  const float g = checked_global(global, "pack");
  const Tensor in = x.contiguous();
  const std::int64_t rows = in.size(0), cols = in.size(1), blocks = nvfp4::blocks_per_row(cols);
  Tensor codes = at::empty({rows, blocks * nvfp4::kBlock / 2}, in.options().dtype(at::kByte));
  Tensor scales = at::empty({rows, blocks}, codes.options());
  const Launch launch(in, "pack");
  pack(type, in.const_data_ptr(), rows, cols, g, codes.data_ptr<std::uint8_t>(),
       scales.data_ptr<std::uint8_t>(), launch.stream());
  launch.done(in);
  return {codes, scales};
}

Tensor unpack_cuda(const Tensor& codes, const Tensor& scales, std::int64_t cols, double global,
                   at::ScalarType type) {
  const float g = checked_global(global, "unpack");
  if (!codes.defined() || !codes.is_cuda() || codes.dim() != 2 || codes.scalar_type() != at::kByte)
    fail("unpack", "codes: expected 2 dimensions of uint8 on a GPU, found {}", describe(codes));
  const Tensor c = codes.contiguous(),
               s = check_beside(scales, at::kByte, codes, "unpack", "scales");
  const std::int64_t rows = c.size(0), blocks = nvfp4::blocks_per_row(cols);
  check_size(c.size(1), blocks * nvfp4::kBlock / 2, "unpack", "columns of codes");
  check_size(s.numel(), rows * blocks, "unpack", "number of scales");
  Tensor out = at::empty({rows, cols}, codes.options().dtype(type));
  const Type values = type_of(out, "unpack", "type");
  const Launch launch(out, "unpack");
  unpack(values, c.const_data_ptr<std::uint8_t>(), s.const_data_ptr<std::uint8_t>(), rows, cols, g,
         out.data_ptr(), launch.stream());
  launch.done(c, s);
  return out;
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("pack", pack_cuda);
  m.impl("unpack", unpack_cuda);
}

}  // namespace
}  // namespace qad::cuda
