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

// F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K; nullptr for every other type.
const GgmlFormat* find_ggml_format(std::uint32_t type);

// The name of any ggml_type known to ggml ("IQ4_NL"), readable or not; "number 99" for others.
std::string ggml_type_name(std::uint32_t type);

}  // namespace qad::checkpoint
