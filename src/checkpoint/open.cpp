// Which format a path holds: a folder is Hugging Face's (or our own around a model.gguf), a file
// tells by its first bytes or its name.
#include <algorithm>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf.h"
#include "checkpoint/hf_folder.h"
#include "checkpoint/llama2c.h"
#include "core/error.h"
#include "core/nearest.h"

namespace qad::checkpoint {
const Tensor& Checkpoint::at(const std::string& name) const {
  if (const auto it = tensors.find(name); it != tensors.end()) return it->second;
  const std::string* nearest = nullptr;
  std::size_t best = SIZE_MAX;
  for (const auto& [other, tensor] : tensors)
    if (const std::size_t d = edit_distance(name, other); d < best) best = d, nearest = &other;
  if (nearest == nullptr)
    fail("load_checkpoint", "{}: holds no tensors, expected {}", path.string(), name);
  fail("load_checkpoint", "{}: expected a tensor {}, found none; the nearest name is {}",
       path.string(), name, *nearest);
}

namespace {

// Calls f(file) for the one that holds the tensor's bytes.
template <class F>
void with_file_of(const Checkpoint& c, const Tensor& t, F&& f) {
  if (t.raw.empty()) return;
  for (const MappedFile& file : c.files) {
    const auto bytes = file.bytes();
    if (t.raw.data() >= bytes.data() && t.raw.data() + t.raw.size() <= bytes.data() + bytes.size())
      return f(file);
  }
}

}  // namespace

void prefetch(const Checkpoint& c, const Tensor& t) {
  with_file_of(c, t, [&](const MappedFile& file) { file.prefetch(t.raw); });
}

void release(const Checkpoint& c, const Tensor& t) {
  with_file_of(c, t, [&](const MappedFile& file) { file.release_pages(t.raw); });
}

Checkpoint open(const fs::path& path) {
  std::error_code error;
  const auto status = fs::status(path, error);
  check(fs::exists(status), "open", "{}: no such file or folder", path.string());
  if (fs::is_directory(status))
    return fs::exists(path / "model.gguf") && !fs::exists(path / "config.json")
               ? open_gguf(path / "model.gguf")
               : open_hf_folder(path);
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
