// What the tests of this room share: a folder that vanishes, and safetensors files made by hand
// (also wrong ones).
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "checkpoint/checkpoint.h"
#include "core/error.h"

namespace qad::checkpoint {

class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = (fs::temp_directory_path() / "qad-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) fail("test", "mkdtemp: {}", std::strerror(errno));
    path_ = pattern;
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  fs::path operator/(const fs::path& name) const { return path_ / name; }

 private:
  fs::path path_;
};

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

// The message of the Error that `f` throws; empty when it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

}  // namespace qad::checkpoint
