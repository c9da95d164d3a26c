// Dequantisation of ggml's block formats, one small function per format, in the order of operations
// of gguf-py.
#include "checkpoint/gguf_blocks.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "nvfp4/nvfp4.h"

namespace qad::checkpoint {
namespace {

using u8 = std::uint8_t;

template <class T>
T load(const u8* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

// IEEE half to single, exact. The magic product scales the half's exponent field to the single's,
// subnormals too.
float half(const u8* p) {
  const std::uint32_t bits = load<std::uint16_t>(p);
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t rest = (bits & 0x7fffu) << 13;
  if (rest >= 0x7c00u << 13)
    return std::bit_cast<float>(sign | 0x7f800000u | rest);  // infinity, NaN
  return std::bit_cast<float>(sign |
                              std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest) * 0x1p112f));
}

float bfloat(const u8* p) {
  return std::bit_cast<float>(std::uint32_t{load<std::uint16_t>(p)} << 16);
}

void f32(const u8* p, float* y) {
  *y = load<float>(p);
}
void f16(const u8* p, float* y) {
  *y = half(p);
}
void bf16(const u8* p, float* y) {
  *y = bfloat(p);
}

void q8_0(const u8* p, float* y) {
  const float d = half(p);
  for (int j = 0; j < 32; ++j) y[j] = d * static_cast<float>(static_cast<std::int8_t>(p[2 + j]));
}

void q4_0(const u8* p, float* y) {
  const float d = half(p);
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>((p[2 + j] & 15) - 8);
    y[j + 16] = d * static_cast<float>((p[2 + j] >> 4) - 8);
  }
}

void q4_1(const u8* p, float* y) {
  const float d = half(p), m = half(p + 2);
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>(p[4 + j] & 15) + m;
    y[j + 16] = d * static_cast<float>(p[4 + j] >> 4) + m;
  }
}

// The fifth bits of Q5_0 and Q5_1: bit j of `high` for value j.
int five_bits(int nibble, std::uint32_t high, int j) {
  return nibble | static_cast<int>((high >> j & 1) << 4);
}

void q5_0(const u8* p, float* y) {
  const float d = half(p);
  const auto high = load<std::uint32_t>(p + 2);
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>(five_bits(p[6 + j] & 15, high, j) - 16);
    y[j + 16] = d * static_cast<float>(five_bits(p[6 + j] >> 4, high, j + 16) - 16);
  }
}

void q5_1(const u8* p, float* y) {
  const float d = half(p), m = half(p + 2);
  const auto high = load<std::uint32_t>(p + 4);
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>(five_bits(p[8 + j] & 15, high, j)) + m;
    y[j + 16] = d * static_cast<float>(five_bits(p[8 + j] >> 4, high, j + 16)) + m;
  }
}

// Scale and minimum of sub-block j of Q4_K and Q5_K: eight pairs of 6 bits in 12 bytes.
std::pair<int, int> scale_and_min(const u8* s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | (s[j - 4] >> 6) << 4, s[j + 4] >> 4 | (s[j] >> 6) << 4};
}

void q4_k(const u8* p, float* y) {
  const float d = half(p), dmin = half(p + 2);
  const u8* qs = p + 16;
  for (int j = 0; j < 8; ++j) {
    const auto [scale, min] = scale_and_min(p + 4, j);
    const float a = d * static_cast<float>(scale), b = dmin * static_cast<float>(min);
    const int shift = 4 * (j & 1);
    for (int l = 0; l < 32; ++l)
      y[32 * j + l] = a * static_cast<float>(qs[32 * (j / 2) + l] >> shift & 15) - b;
  }
}

void q5_k(const u8* p, float* y) {
  const float d = half(p), dmin = half(p + 2);
  const u8 *high = p + 16, *qs = p + 48;
  for (int j = 0; j < 8; ++j) {
    const auto [scale, min] = scale_and_min(p + 4, j);
    const float a = d * static_cast<float>(scale), b = dmin * static_cast<float>(min);
    const int shift = 4 * (j & 1);
    for (int l = 0; l < 32; ++l) {
      const int q = (qs[32 * (j / 2) + l] >> shift & 15) | (high[l] >> j & 1) << 4;
      y[32 * j + l] = a * static_cast<float>(q) - b;
    }
  }
}

void q6_k(const u8* p, float* y) {
  const float d = half(p + 208);
  for (int h = 0; h < 2;
       ++h) {  // halves of 128 values; quarter k of a half has its own nibbles and bit pair
    const u8 *low = p + 64 * h, *high = p + 128 + 32 * h, *scales = p + 192 + 8 * h;
    for (int k = 0; k < 4; ++k) {
      for (int l = 0; l < 32; ++l) {
        const int nibble = low[32 * (k & 1) + l] >> 4 * (k >> 1) & 15;
        const int q = (nibble | (high[l] >> 2 * k & 3) << 4) - 32;
        const float scale =
            d * static_cast<float>(static_cast<std::int8_t>(scales[2 * k + l / 16]));
        y[128 * h + 32 * k + l] = scale * static_cast<float>(q);
      }
    }
  }
}

void mxfp4(const u8* p, float* y) {
  const float scale = p[0] == 0xFF ? NAN : std::ldexp(1.0f, p[0] - 127);
  for (int j = 0; j < 16; ++j) {
    y[j] = nvfp4::e2m1_decode(p[1 + j] & 15) * scale;
    y[j + 16] = nvfp4::e2m1_decode(p[1 + j] >> 4) * scale;
  }
}

void nvfp4_64(const u8* p, float* y) {
  std::uint8_t codes[32], scales[4];
  nvfp4_block_to(reinterpret_cast<const std::byte*>(p), codes, scales);
  nvfp4::dequantize(codes, scales, 1, 64, 1, y);
}

template <auto kBlock, int kValues, int kBytes>
constexpr GgmlFormat format(std::uint32_t type, std::string_view name) {
  return {type, name, kValues, kBytes, [](const std::byte* in, std::int64_t blocks, float* out) {
            const u8* p = reinterpret_cast<const u8*>(in);
            for (std::int64_t i = 0; i < blocks; ++i) kBlock(p + i * kBytes, out + i * kValues);
          }};
}

constexpr std::array kFormats = {
    format<f32, 1, 4>(0, "F32"),           format<f16, 1, 2>(1, "F16"),
    format<bf16, 1, 2>(30, "BF16"),        format<q4_0, 32, 18>(2, "Q4_0"),
    format<q4_1, 32, 20>(3, "Q4_1"),       format<q5_0, 32, 22>(6, "Q5_0"),
    format<q5_1, 32, 24>(7, "Q5_1"),       format<q8_0, 32, 34>(8, "Q8_0"),
    format<q4_k, 256, 144>(12, "Q4_K"),    format<q5_k, 256, 176>(13, "Q5_K"),
    format<q6_k, 256, 210>(14, "Q6_K"),    format<mxfp4, 32, 17>(39, "MXFP4"),
    format<nvfp4_64, 64, 36>(40, "NVFP4"),
};

// ggml's names by number; empty where ggml has retired the type.
constexpr std::array<std::string_view, 43> kNames = {
    "F32",     "F16",   "Q4_0",   "Q4_1",  "",      "",       "Q5_0", "Q5_1",    "Q8_0",
    "Q8_1",    "Q2_K",  "Q3_K",   "Q4_K",  "Q5_K",  "Q6_K",   "Q8_K", "IQ2_XXS", "IQ2_XS",
    "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",   "I16",     "I32",
    "I64",     "F64",   "IQ1_M",  "BF16",  "",      "",       "",     "TQ1_0",   "TQ2_0",
    "",        "",      "",       "MXFP4", "NVFP4", "Q1_0",   "Q2_0"};

// IEEE half, nearest even; for finite values that FP16 holds.
std::uint16_t to_half(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  const float magnitude = std::bit_cast<float>(bits & 0x7FFFFFFF);
  if (magnitude < 0x1p-14f)  // subnormal: whole multiples of 2^-24, which rint rounds to even
    return sign | static_cast<std::uint16_t>(std::nearbyint(magnitude * 0x1p24f));
  const std::uint32_t rest = (bits & 0x7FFFFFFF) - (112u << 23);
  return sign | static_cast<std::uint16_t>((rest + 0xFFF + (rest >> 13 & 1)) >> 13);
}

}  // namespace

void nvfp4_block_to(const std::byte* block, std::uint8_t* codes, std::uint8_t* scales) {
  const u8* p = reinterpret_cast<const u8*>(block);
  std::copy_n(p, 4, scales);
  for (int sub = 0; sub < 4; ++sub)
    for (int j = 0; j < 4; ++j) {
      const u8* from = p + 4 + 8 * sub + 2 * j;
      codes[8 * sub + j] = static_cast<u8>((from[0] & 15) | from[1] << 4);
      codes[8 * sub + j + 4] = static_cast<u8>(from[0] >> 4 | (from[1] & 0xF0));
    }
}

void nvfp4_block_from(const std::uint8_t* codes, const std::uint8_t* scales, std::byte* block) {
  u8* p = reinterpret_cast<u8*>(block);
  std::copy_n(scales, 4, p);
  for (int sub = 0; sub < 4; ++sub)
    for (int j = 0; j < 4; ++j) {
      const u8 low = codes[8 * sub + j], high = codes[8 * sub + j + 4];
      p[4 + 8 * sub + 2 * j] = static_cast<u8>((low & 15) | high << 4);
      p[4 + 8 * sub + 2 * j + 1] = static_cast<u8>(low >> 4 | (high & 0xF0));
    }
}

void encode_q8_0(const float* values, std::int64_t count, std::byte* blocks) {
  u8* p = reinterpret_cast<u8*>(blocks);
  for (std::int64_t i = 0; i < count; i += 32, p += 34) {
    float amax = 0;
    for (int j = 0; j < 32; ++j) amax = std::max(amax, std::abs(values[i + j]));
    const float scale = amax / 127, inverse = scale == 0 ? 0 : 1 / scale;
    const std::uint16_t half_scale = to_half(scale);
    std::memcpy(p, &half_scale, sizeof half_scale);
    for (int j = 0; j < 32; ++j)
      p[2 + j] = static_cast<u8>(static_cast<std::int8_t>(std::round(values[i + j] * inverse)));
  }
}

const GgmlFormat* find_ggml_format(std::uint32_t type) {
  for (const GgmlFormat& f : kFormats) {
    if (f.type == type) return &f;
  }
  return nullptr;
}

const GgmlFormat& ggml_format(std::string_view name) {
  return *std::ranges::find(kFormats, name, &GgmlFormat::name);
}

std::string ggml_type_name(std::uint32_t type) {
  if (type < kNames.size() && !kNames[type].empty()) return std::string(kNames[type]);
  return fmt::format("number {}", type);
}

}  // namespace qad::checkpoint
