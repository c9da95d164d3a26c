// One safetensors file: a u64 header length, a JSON header, then the tensors' bytes without holes.
// The file is mapped, never copied; every field of the header is checked against the file before a
// tensor is handed out.
#pragma once

#include "checkpoint/checkpoint.h"

namespace qad::checkpoint {

inline constexpr std::size_t kMaxSafetensorsHeader =
    100'000'000;  // the reference implementation's limit

struct SafetensorsFile {
  MappedFile file;
  std::map<std::string, std::string> metadata;  // __metadata__
  std::vector<Tensor> tensors;                  // in the order of their bytes
};

// Throws Error naming the file and the tensor for whatever is malformed.
SafetensorsFile read_safetensors(const fs::path& path);

// The same over bytes already in memory (fuzzing); `where` names them in errors.
std::vector<Tensor> parse_safetensors(std::span<const std::byte> file, std::string_view where,
                                      std::map<std::string, std::string>& metadata);

}  // namespace qad::checkpoint
