// What a quantised linear saves of its input: 4.5 bits a value instead of 16 or 32, without loss,
// since that input is on the NVFP4 grid of a known global scale (nvfp4::pack).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace qad::ops {

struct Packed {
  at::Tensor codes;   // uint8 [T, 8 * blocks of a row]
  at::Tensor scales;  // uint8 [T, blocks of a row], E4M3
};

// x [T, K], FP32 or BF16, as fake_quantize made it with that global scale.
Packed pack(const at::Tensor& x, double global);
// The bits of x [T, cols], of that type again.
at::Tensor unpack(const Packed& packed, std::int64_t cols, double global, at::ScalarType type);

}  // namespace qad::ops
