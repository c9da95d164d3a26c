// The value formats of GGUF tensors: how many values a block holds, its bytes, and its values in
// FP32 exactly as ggml and gguf-py compute them (one rounding per multiplication, then one for the
// offset).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace qad::checkpoint {

struct GgmlFormat {
  std::uint32_t type;     // ggml_type
  std::string_view name;  // "Q4_1", as ggml prints it
  std::int64_t values;    // per block; a row is a whole number of blocks
  std::int64_t bytes;     // per block
  void (*dequantize)(const std::byte* in, std::int64_t blocks,
                     float* out);  // out: blocks * values floats
};

// F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, MXFP4, NVFP4; nullptr for every
// other type. NVFP4's values are those of a global scale of 1.
const GgmlFormat* find_ggml_format(std::uint32_t type);
const GgmlFormat& ggml_format(std::string_view name);  // one of these

// NVFP4, 64 values in 36 bytes: four E4M3 scales, then 8 bytes for each 16 values, of which byte j
// has value j below and value j + 8 above. From and to codes (even values below, 32 bytes) and
// scales (4 bytes): a permutation, both ways.
void nvfp4_block_to(const std::byte* block, std::uint8_t* codes, std::uint8_t* scales);
void nvfp4_block_from(const std::uint8_t* codes, const std::uint8_t* scales, std::byte* block);

// `count` values, a multiple of 32, as ggml rounds them: scale amax/127 in FP16, quotients to the
// nearest, halves away from zero.
void encode_q8_0(const float* values, std::int64_t count, std::byte* blocks);

// The name of any ggml_type known to ggml ("IQ4_NL"), readable or not; "number 99" for others.
std::string ggml_type_name(std::uint32_t type);

}  // namespace qad::checkpoint
