// What the tests of this room share: golden files, and safetensors files made by hand (also wrong
// ones).
#pragma once

#include <cstring>
#include <string>

#include "checkpoint/checkpoint.h"
#include "core/scratch.h"

namespace qad::checkpoint {

inline fs::path golden(const std::string& name) {
  return fs::path(QAD_SOURCE_DIR) / "tests/golden/checkpoint" / name;
}

inline Tensor tensor_over(const std::string& name, DType type, std::vector<std::int64_t> shape,
                          std::span<const std::byte> raw) {
  Tensor t;
  t.name = name;
  t.dtype = type;
  t.shape = std::move(shape);
  t.raw = raw;
  return t;
}

// A safetensors file of this header and `data_bytes` bytes 0, 1, 2, ...
inline std::string safetensors_file(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  file += header;
  for (std::size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

}  // namespace qad::checkpoint
