// The GGUF container (versions 2 and 3, little endian): key-values and tensor records, with every
// count, length and offset checked against the bytes that are there. What the keys and names mean
// is gguf.h's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/gguf_blocks.h"
#include "core/json.h"

namespace qad::checkpoint {

struct GgufTensor {
  std::string name;                 // ggml's: "blk.0.attn_q.weight"
  std::vector<std::int64_t> shape;  // slowest dimension first, as PyTorch has it
  const GgmlFormat* format;
  std::span<const std::byte> data;  // rows of whole blocks

  std::int64_t rows() const;  // product of all dimensions but the last
};

struct GgufFile {
  std::string where;  // the path, for messages
  // All key-values in file order. Strings hold the file's bytes, which need not be UTF-8 (byte
  // tokens of some tokenizers are not): read them, but dump() would throw.
  Json metadata;
  std::vector<GgufTensor> tensors;
};

// `bytes` is the whole file and must outlive the result. Throws Error naming the place for anything
// malformed and for tensors of a type that find_ggml_format doesn't know.
GgufFile parse_gguf(std::span<const std::byte> bytes, std::string_view where);

}  // namespace qad::checkpoint
