// Packing on the CPU, in FP32 and BF16: row by row what nvfp4::pack and dequantize say. Plain,
// since a CPU saves inputs as they are (models::Placement); it is what other devices are held to.
#include "ops/pack.h"

#include "nvfp4/nvfp4.h"
#include "ops/dispatch.h"
#include "ops/quantized_rows.h"

namespace qad::ops {
namespace {

using at::Tensor;

bool checked_bf16(at::ScalarType type, std::string_view operation) {
  check(type == at::kFloat || type == at::kBFloat16, operation,
        "expected values of float32 or bfloat16, found {}", c10::toString(type));
  return type == at::kBFloat16;
}

std::tuple<Tensor, Tensor> pack_cpu(const Tensor& x, double global) {
  const bool bf16 = checked_bf16(x.scalar_type(), "pack");
  check_tensor(x, x.scalar_type(), 2, "pack", "x");
  const float g = checked_global(global, "pack");
  const Tensor in = x.to(at::kFloat).contiguous();
  const std::int64_t rows = in.size(0), cols = in.size(1), blocks = nvfp4::blocks_per_row(cols);
  const Tensor codes = at::empty({rows, blocks * nvfp4::kBlock / 2}, in.options().dtype(at::kByte));
  const Tensor scales = at::empty({rows, blocks}, codes.options());
  const float* from = in.const_data_ptr<float>();
  auto *c = codes.data_ptr<std::uint8_t>(), *s = scales.data_ptr<std::uint8_t>();
  parallel_for(0, rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
    nvfp4::pack(from + begin * cols, end - begin, cols, g, bf16,
                c + begin * blocks * nvfp4::kBlock / 2, s + begin * blocks);
  });
  return {codes, scales};
}

Tensor unpack_cpu(const Tensor& codes, const Tensor& scales, std::int64_t cols, double global,
                  at::ScalarType type) {
  checked_bf16(type, "unpack");
  check_tensor(codes, at::kByte, 2, "unpack", "codes");
  check_tensor(scales, at::kByte, 2, "unpack", "scales");
  const float g = checked_global(global, "unpack");
  const std::int64_t rows = codes.size(0), blocks = nvfp4::blocks_per_row(cols);
  check_size(codes.size(1), blocks * nvfp4::kBlock / 2, "unpack", "columns of codes");
  check_size(scales.size(0), rows, "unpack", "rows of scales");
  check_size(scales.size(1), blocks, "unpack", "columns of scales");
  const Tensor c = codes.contiguous(), s = scales.contiguous();
  const Tensor out = at::empty({rows, cols}, codes.options().dtype(at::kFloat));
  const auto *code = c.const_data_ptr<std::uint8_t>(), *scale = s.const_data_ptr<std::uint8_t>();
  float* to = out.data_ptr<float>();
  parallel_for(0, rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
    nvfp4::dequantize(code + begin * blocks * nvfp4::kBlock / 2, scale + begin * blocks,
                      end - begin, cols, g, to + begin * cols);
  });
  return out.to(type);
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def("pack(Tensor x, float global_scale) -> (Tensor codes, Tensor scales)");
  m.def(
      "unpack(Tensor codes, Tensor scales, int cols, float global_scale, ScalarType type) -> "
      "Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("pack", pack_cpu);
  m.impl("unpack", unpack_cpu);
}

}  // namespace

Packed pack(const Tensor& x, double global) {
  static const auto op = find_op<decltype(pack_cpu)>("qad::pack");
  auto [codes, scales] = call_kernel(op, x, global);
  return {codes, scales};
}

Tensor unpack(const Packed& packed, std::int64_t cols, double global, at::ScalarType type) {
  static const auto op = find_op<decltype(unpack_cpu)>("qad::unpack");
  return call_kernel(op, packed.codes, packed.scales, cols, global, type);
}

}  // namespace qad::ops
