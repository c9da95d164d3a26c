// Whole matrices to NVFP4 and back. Blocks go by in tiles that stay in the first-level cache: the
// amaxes of a tile, then its scales (vectorised over blocks), then its elements.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "nvfp4/block.h"
#include "nvfp4/nvfp4.h"
#include "nvfp4/scale_search.h"

HWY_BEFORE_NAMESPACE();
namespace qad::nvfp4 {
namespace {

constexpr int kTile = 64;  // blocks: 4 KiB of floats

void check_global(float global, const char* operation) {
  check(global >= kMinGlobal && std::isfinite(kE2M1Max * (kE4M3Max * global)), operation,
        "expected a global scale between {} and {}, found {}; is the tensor's largest magnitude "
        "sound?",
        kMinGlobal, std::numeric_limits<float>::max() / (kE2M1Max * kE4M3Max), global);
}

// Calls run(x offset, first block, blocks) over contiguous whole blocks and tail(x offset, block,
// length) for the rest of each row.
template <class Run, class Tail>
void for_each_run(std::int64_t rows, std::int64_t cols, Run run, Tail tail) {
  const int rest = static_cast<int>(cols % kBlock);
  if (rest == 0) {  // rows follow each other without a gap
    run(0, 0, rows * (cols / kBlock));
    return;
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t whole = cols / kBlock, block = row * (whole + 1), x = row * cols;
    run(x, block, whole);
    tail(x + whole * kBlock, block + whole, rest);
  }
}

// Block scales (as floats) and the divisors d = scale * global of up to kTile blocks, with their
// amaxes.
struct Tile {
  HWY_ALIGN float amax[kTile], scale[kTile], d[kTile];
};

HWY_INLINE void scale_tile(const float* x, int blocks, float global, BlockScale rule, Tile& tile) {
  const Floats f;
  for (int b = 0; b < blocks; ++b) tile.amax[b] = block_amax(x + b * kBlock);
  for (int b = blocks; b % kLanes != 0; ++b) tile.amax[b] = 0.0f;
  const auto six_global = hn::Set(f, kE2M1Max * global);
  for (int b = 0; b < blocks; b += kLanes)
    hn::Store(round_block_scale(hn::Div(hn::Load(f, tile.amax + b), six_global)), f,
              tile.scale + b);
  if (rule != BlockScale::max) {
    const auto search = rule == BlockScale::mse ? search_scale : four_over_six_scale;
    for (int b = 0; b < blocks; ++b)
      if (tile.amax[b] > 0.0f)
        tile.scale[b] = search(x + b * kBlock, tile.amax[b], global, tile.scale[b]);
  }
  for (int b = 0; b < blocks; ++b) tile.d[b] = tile.scale[b] * global;
}

// Eight nibbles in bytes to four bytes and back, first nibble low (little-endian words).
inline std::uint32_t pack(std::uint64_t w) {
  w = (w | w >> 4) & 0x00FF00FF00FF00FF;
  w = (w | w >> 8) & 0x0000FFFF0000FFFF;
  return static_cast<std::uint32_t>(w | w >> 16);
}

inline std::uint64_t unpack(std::uint64_t w) {
  w = (w | w << 16) & 0x0000FFFF0000FFFF;
  w = (w | w << 8) & 0x00FF00FF00FF00FF;
  return (w | w << 4) & 0x0F0F0F0F0F0F0F0F;
}

HWY_INLINE void quantize_block(const float* x, float d, std::uint8_t* codes) {
  const Floats f;
  const hn::Rebind<std::uint8_t, Floats> bytes;
  const auto divisor = hn::Set(f, d);
  alignas(16) std::uint8_t nibbles[kBlock];
  for (int i = 0; i < kBlock; i += kLanes) {
    const auto code = encode_e2m1(hn::Div(hn::LoadU(f, x + i), divisor));
    hn::StoreU(hn::DemoteTo(bytes, code), bytes, nibbles + i);
  }
  std::uint64_t words[2];
  std::memcpy(words, nibbles, sizeof words);
  const std::uint32_t packed[2] = {pack(words[0]), pack(words[1])};
  std::memcpy(codes, packed, sizeof packed);
}

HWY_INLINE void dequantize_block(const std::uint8_t* codes, float d, float* y) {
  const Floats f;
  const hn::Rebind<std::uint8_t, Floats> bytes;
  std::uint32_t packed[2];
  std::memcpy(packed, codes, sizeof packed);
  const std::uint64_t words[2] = {unpack(packed[0]), unpack(packed[1])};
  alignas(16) std::uint8_t nibbles[kBlock];
  std::memcpy(nibbles, words, sizeof words);
  for (int i = 0; i < kBlock; i += kLanes) {
    const auto code = hn::PromoteTo(Ints(), hn::LoadU(bytes, nibbles + i));
    hn::StoreU(hn::Mul(decode_e2m1(code), hn::Set(f, d)), f, y + i);
  }
}

void quantize_run(const float* x, std::int64_t blocks, float global, BlockScale rule,
                  std::uint8_t* codes, std::uint8_t* scales) {
  const Floats f;
  const hn::Rebind<std::uint8_t, Floats> bytes;
  Tile tile;
  for (std::int64_t first = 0; first < blocks; first += kTile) {
    const int n = static_cast<int>(std::min<std::int64_t>(kTile, blocks - first));
    scale_tile(x + first * kBlock, n, global, rule, tile);
    HWY_ALIGN std::uint8_t scale_codes[kTile];
    for (int b = 0; b < n; b += kLanes)
      hn::StoreU(hn::DemoteTo(bytes, encode_block_scale(hn::Load(f, tile.scale + b))), bytes,
                 scale_codes + b);
    std::copy_n(scale_codes, n, scales + first);
    for (int b = 0; b < n; ++b) {
      quantize_block(x + (first + b) * kBlock, tile.d[b], codes + (first + b) * kBlock / 2);
    }
  }
}

// Of one block, whose every value is divided by d.
HWY_INLINE void fake_quantize_block(const float* x, float d, float* y) {
  const Floats f;
  const auto divisor = hn::Set(f, d);
  for (int i = 0; i < kBlock; i += kLanes)
    hn::StoreU(hn::Mul(round_e2m1(hn::Div(hn::LoadU(f, x + i), divisor)), divisor), f, y + i);
}

std::int64_t fake_quantize_run(const float* x, std::int64_t blocks, float global, BlockScale rule,
                               float* y) {
  // A little above 2688 * global: the amax that global was made from must not count as clipped.
  const float limit = kE2M1Max * (kE4M3Max * global) * (1.0f + 0x1p-21f);
  std::int64_t clipped = 0;
  Tile tile;
  for (std::int64_t first = 0; first < blocks; first += kTile) {
    const int n = static_cast<int>(std::min<std::int64_t>(kTile, blocks - first));
    scale_tile(x + first * kBlock, n, global, rule, tile);
    for (int b = 0; b < n; ++b) {
      const float* in = x + (first + b) * kBlock;
      float* out = y + (first + b) * kBlock;
      if (tile.amax[b] > limit)
        clipped += std::count_if(in, in + kBlock, [&](float v) { return std::fabs(v) > limit; });
      fake_quantize_block(in, tile.d[b], out);
    }
  }
  return clipped;
}

}  // namespace

void quantize(const float* x, std::int64_t rows, std::int64_t cols, float global, BlockScale rule,
              std::uint8_t* codes, std::uint8_t* scales) {
  check_global(global, "quantize");
  for_each_run(
      rows, cols,
      [&](std::int64_t at, std::int64_t block, std::int64_t blocks) {
        quantize_run(x + at, blocks, global, rule, codes + block * kBlock / 2, scales + block);
      },
      [&](std::int64_t at, std::int64_t block, int length) {
        float padded[kBlock] = {};
        std::copy_n(x + at, length, padded);
        quantize_run(padded, 1, global, rule, codes + block * kBlock / 2, scales + block);
      });
}

void dequantize(const std::uint8_t* codes, const std::uint8_t* scales, std::int64_t rows,
                std::int64_t cols, float global, float* y) {
  float values[256];  // d for each scale byte
  for (int code = 0; code < 256; ++code)
    values[code] = e4m3_decode(static_cast<std::uint8_t>(code)) * global;
  for_each_run(
      rows, cols,
      [&](std::int64_t at, std::int64_t block, std::int64_t blocks) {
        for (std::int64_t b = 0; b < blocks; ++b)
          dequantize_block(codes + (block + b) * kBlock / 2, values[scales[block + b]],
                           y + at + b * kBlock);
      },
      [&](std::int64_t at, std::int64_t block, int length) {
        float padded[kBlock];
        dequantize_block(codes + block * kBlock / 2, values[scales[block]], padded);
        std::copy_n(padded, length, y + at);
      });
}

std::int64_t fake_quantize(const float* x, std::int64_t rows, std::int64_t cols, float global,
                           BlockScale rule, float* y) {
  check_global(global, "fake_quantize");
  std::int64_t clipped = 0;
  for_each_run(
      rows, cols,
      [&](std::int64_t at, std::int64_t, std::int64_t blocks) {
        clipped += fake_quantize_run(x + at, blocks, global, rule, y + at);
      },
      [&](std::int64_t at, std::int64_t, int length) {
        float padded[kBlock] = {};
        std::copy_n(x + at, length, padded);
        clipped += fake_quantize_run(padded, 1, global, rule, padded);
        std::copy_n(padded, length, y + at);
      });
  return clipped;
}

void quantize_with_scales(const float* x, std::int64_t rows, std::int64_t cols, float global,
                          const std::uint8_t* scales, std::uint8_t* codes) {
  check_global(global, "quantize");
  const auto one = [&](const float* from, std::int64_t block) {
    quantize_block(from, e4m3_decode(scales[block]) * global, codes + block * kBlock / 2);
  };
  for_each_run(
      rows, cols,
      [&](std::int64_t at, std::int64_t block, std::int64_t blocks) {
        for (std::int64_t b = 0; b < blocks; ++b) one(x + at + b * kBlock, block + b);
      },
      [&](std::int64_t at, std::int64_t block, int length) {
        float padded[kBlock] = {};
        std::copy_n(x + at, length, padded);
        one(padded, block);
      });
}

void fake_quantize_with_scales(const float* x, std::int64_t rows, std::int64_t cols, float global,
                               const std::uint8_t* scales, float* y) {
  check_global(global, "fake_quantize");
  const auto one = [&](const float* from, std::int64_t block, float* to) {
    fake_quantize_block(from, e4m3_decode(scales[block]) * global, to);
  };
  for_each_run(
      rows, cols,
      [&](std::int64_t at, std::int64_t block, std::int64_t blocks) {
        for (std::int64_t b = 0; b < blocks; ++b)
          one(x + at + b * kBlock, block + b, y + at + b * kBlock);
      },
      [&](std::int64_t at, std::int64_t block, int length) {
        float padded[kBlock] = {};
        std::copy_n(x + at, length, padded);
        one(padded, block, padded);
        std::copy_n(padded, length, y + at);
      });
}

}  // namespace qad::nvfp4
HWY_AFTER_NAMESPACE();
