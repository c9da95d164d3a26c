// Writing a GGUF file (version 3, little endian): key-values, tensor records, then each tensor's
// blocks at a multiple of the alignment. What keys and names mean is gguf_out.cpp's business.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "checkpoint/gguf_blocks.h"
#include "core/file.h"
#include "core/json.h"

namespace qad::checkpoint {

struct OutGgufTensor {
  std::string name;                 // ggml's: "blk.0.attn_q.weight", at most 63 bytes
  std::vector<std::int64_t> shape;  // slowest dimension first, as PyTorch has it
  const GgmlFormat* format;         // whose blocks divide the rows
  // Called once, when its turn comes: exactly the bytes of the shape's blocks.
  std::function<void(std::byte* out)> fill;

  std::int64_t bytes() const;
};

// The file appears whole or not at all. JSON's kinds give GGUF's types: unsigned u32, signed i32,
// float f32, and lists of one of them (or of strings); "tokenizer.ggml.precompiled_charsmap" is
// bytes, and an empty list is left out. Throws Error for other kinds and whole numbers beyond 32
// bits. `progress` is OutFolder's.
void write_gguf(const fs::path& path, const Json& metadata,
                const std::vector<OutGgufTensor>& tensors,
                const std::function<void(std::int64_t done, std::int64_t all)>& progress);

}  // namespace qad::checkpoint
