// The NVFP4 number format: the one definition of its rounding and scales that everything else
// calls. What is trained is what is shipped: fake_quantize(x) == dequantize(quantize(x)), bit for
// bit.
//
// A matrix [rows, cols], row-major: each 16 consecutive values of a row share an E4M3 block scale
// s, the whole matrix an FP32 global scale g; value = e2m1(code) * (e4m3(s) * g). Sources: the QAD
// report; NUMERICS.md.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace qad::nvfp4 {

inline constexpr int kBlock = 16;
inline constexpr float kE2M1Max = 6.0f;
inline constexpr float kE4M3Max = 448.0f;
inline constexpr float kE4M3Min = 0x1p-9f;  // the smallest block scale ever written

// Global scales never fall below this: from here on every value but zero is a normal BF16 and FP32
// number.
inline constexpr float kMinGlobal = 0x1p-116f;

// How the global scale follows from the largest magnitude (amax) of the matrix. pow2 rounds
// amax/2688 up to a power of two, so that every dequantised value is exact in BF16; amax is
// ModelOpt's amax/2688.
enum class GlobalScale { pow2, amax };

// How a block's E4M3 scale is chosen. max: the largest magnitude maps to 6. mse: of the 126
// positive finite E4M3 values the one with the least squared error. four_over_six: the better of
// mapping the largest to 6 or to 4.
enum class BlockScale { max, mse, four_over_six };

// Nearest even, saturating at +-448; NaN gives 0x7F.
std::uint8_t e4m3_encode(float x);
float e4m3_decode(std::uint8_t code);
// Nearest, ties to the even code, saturating at +-6; -0.0 gives 0, a tiny negative 8.
std::uint8_t e2m1_encode(float x);
float e2m1_decode(std::uint8_t code);

// Nearest even; here, so that loops over weights are vectorised.
constexpr float round_to_bf16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  return x != x ? x : std::bit_cast<float>((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u);
}

// amax of 0 gives 1 (any scale decodes zeros). Four-over-six normalises by 256 instead of 448.
float global_scale(float amax, GlobalScale rule, BlockScale blocks);

// The largest magnitude; throws Error naming `name` when a value is infinite or NaN.
float amax(std::span<const float> x, std::string_view name);

inline std::int64_t blocks_per_row(std::int64_t cols) {
  return (cols + kBlock - 1) / kBlock;
}

// codes: rows * blocks_per_row(cols) * 8 bytes, even column in the low nibble; scales: rows *
// blocks_per_row(cols). A tail block is padded with zeros. Values must be finite (see amax).
// Throws Error when `global` is below kMinGlobal, or so large that 6 * 448 * global overflows.
void quantize(const float* x, std::int64_t rows, std::int64_t cols, float global, BlockScale rule,
              std::uint8_t* codes, std::uint8_t* scales);
void dequantize(const std::uint8_t* codes, const std::uint8_t* scales, std::int64_t rows,
                std::int64_t cols, float global, float* y);
// y may be x. Returns how many values are clipped: larger than 2688 * global by more than rounding.
// A NaN stays NaN in its place. Throws Error as quantize does.
std::int64_t fake_quantize(const float* x, std::int64_t rows, std::int64_t cols, float global,
                           BlockScale rule, float* y);

// The same with block scales that were chosen before: E4M3 codes from 0x01 to 0x7E, laid out as
// quantize's. A value beyond 6 * s * global saturates. y may be x.
void quantize_with_scales(const float* x, std::int64_t rows, std::int64_t cols, float global,
                          const std::uint8_t* scales, std::uint8_t* codes);
void fake_quantize_with_scales(const float* x, std::int64_t rows, std::int64_t cols, float global,
                               const std::uint8_t* scales, float* y);

// Block scales by what an error does to a linear's result (hessian_scale.cpp): of the 126 positive
// finite E4M3 values the one with the least e^T H e, e being what rounding changes in the block and
// H the block's own of `hessians` [blocks_per_row(cols), 16, 16], symmetric and shared by all rows;
// the smallest of equals. For blocks of zeros 1.0. `scales` as quantize's.
void hessian_scales(const float* x, std::int64_t rows, std::int64_t cols, float global,
                    const float* hessians, std::uint8_t* scales);

// The way back: codes and scales, laid out as quantize's, of values that fake_quantize made with
// `global` under any rule, and that were rounded to BF16 afterwards if `bf16`. Dequantising, and
// rounding again if `bf16`, gives each of their bits. A block that is nothing of the kind (it holds
// a NaN, say) gets the scale NaN, and decodes to NaN.
void pack(const float* y, std::int64_t rows, std::int64_t cols, float global, bool bf16,
          std::uint8_t* codes, std::uint8_t* scales);
inline constexpr std::uint8_t kE4M3NaN = 0x7F;

}  // namespace qad::nvfp4
