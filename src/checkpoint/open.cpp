// Which format a path holds: a folder is Hugging Face's, a file tells by its first bytes or its
// name.
#include <algorithm>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf.h"
#include "checkpoint/hf_folder.h"
#include "checkpoint/llama2c.h"
#include "core/error.h"

namespace qad::checkpoint {
namespace {

// Levenshtein's distance: the number of letters to change, add or drop.
std::size_t distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t swap = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({swap, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

const Tensor& Checkpoint::at(const std::string& name) const {
  if (const auto it = tensors.find(name); it != tensors.end()) return it->second;
  const std::string* nearest = nullptr;
  std::size_t best = SIZE_MAX;
  for (const auto& [other, tensor] : tensors)
    if (const std::size_t d = distance(name, other); d < best) best = d, nearest = &other;
  if (nearest == nullptr)
    fail("load_checkpoint", "{}: holds no tensors, expected {}", path.string(), name);
  fail("load_checkpoint", "{}: expected a tensor {}, found none; the nearest name is {}",
       path.string(), name, *nearest);
}

Checkpoint open(const fs::path& path) {
  std::error_code error;
  const auto status = fs::status(path, error);
  check(fs::exists(status), "open", "{}: no such file or folder", path.string());
  if (fs::is_directory(status)) return open_hf_folder(path);
  check(fs::is_regular_file(status), "open", "{}: expected a folder or a file", path.string());
  const MappedFile file(path);
  if (path.extension() == ".gguf" || file.text().starts_with("GGUF")) return open_gguf(path);
  if (path.extension() == ".bin") return open_llama2c(path);
  fail("open", "{}: expected a Hugging Face folder, a .gguf file or a llama2.c .bin file{}",
       path.string(),
       path.extension() == ".safetensors"
           ? "; give the folder that holds this file and its config.json"
           : "");
}

}  // namespace qad::checkpoint
