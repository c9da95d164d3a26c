// Codes and scales of values that are on the grid already. A block's scale is not that of its
// largest value: a search, clipping or rounding may have made any code the largest. But the largest
// magnitude is m = k * s * g for one of seven k, so that one of the seven quotients m / (k * g) is
// s, but for roundings: one to BF16, which is at most 2^-8 of it, and a few to FP32. The nearest
// other E4M3 value begins 2^-5 away, and codes are further apart still; so for that k rounding to
// nearest finds s and every code. Candidates are tried from the largest k down, and one that gives
// back each value is an answer, whether or not it is where they came from.
#include <algorithm>
#include <cmath>

#include "nvfp4/nvfp4.h"

namespace qad::nvfp4 {
namespace {

// Whether `scale` gives back the block, whose codes it leaves.
bool reproduces(const float* y, std::uint8_t scale, float global, bool bf16, std::uint8_t* codes) {
  const float d = e4m3_decode(scale) * global;
  std::uint8_t found[kBlock];
  for (int i = 0; i < kBlock; ++i) {
    const float magnitude = std::fabs(y[i]);
    const std::uint8_t code = e2m1_encode(magnitude / d);
    const float value = e2m1_decode(code) * d;
    if (!((bf16 ? round_to_bf16(value) : value) == magnitude)) return false;
    found[i] = code | (std::signbit(y[i]) ? 8 : 0);  // -0.0 has a code of its own
  }
  for (int i = 0; i < kBlock; i += 2) codes[i / 2] = found[i] | found[i + 1] << 4;
  return true;
}

std::uint8_t pack_block(const float* y, float global, bool bf16, std::uint8_t* codes) {
  float largest = 0;
  for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(y[i]));
  for (std::uint8_t k = 7; k >= 1; --k) {
    const float wanted = largest / (e2m1_decode(k) * global);
    const std::uint8_t scale =
        wanted == 0 ? e4m3_encode(1.0f) : e4m3_encode(std::max(wanted, kE4M3Min));
    if (reproduces(y, scale, global, bf16, codes)) return scale;
  }
  std::fill_n(codes, kBlock / 2, std::uint8_t{0});
  return kE4M3NaN;
}

}  // namespace

void pack(const float* y, std::int64_t rows, std::int64_t cols, float global, bool bf16,
          std::uint8_t* codes, std::uint8_t* scales) {
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t col = 0; col < cols; col += kBlock) {
      float block[kBlock] = {};
      std::copy_n(y + row * cols + col, std::min<std::int64_t>(kBlock, cols - col), block);
      *scales++ = pack_block(block, global, bf16, codes);
      codes += kBlock / 2;
    }
}

}  // namespace qad::nvfp4
