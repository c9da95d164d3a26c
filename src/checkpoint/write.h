// Writing a Hugging Face folder: tensors in safetensors shards, config.json and the companions
// (generation config, tokenizer files) that other programs need beside the weights. The folder
// appears whole or not at all.
#pragma once

#include "checkpoint/checkpoint.h"

namespace qad::checkpoint {

// One tensor to be written. `fill` is called once, when its turn comes, which is in the order of
// the list, and must write exactly the bytes of dtype and shape: so a model never exists twice in
// memory, nor, if it is read in that order too, once.
struct OutTensor {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::function<void(std::byte* out)> fill;
};

struct OutFolder {
  Json config;
  Json generation_config;  // null: not written
  Json hf_quant_config;    // null: not written
  std::vector<OutTensor> tensors;
  // Of every safetensors file's __metadata__, beside "format".
  std::map<std::string, std::string> metadata;
  std::vector<std::pair<std::string, std::string>>
      files;  // further files: name, content (tokenizer, README...)
  std::int64_t max_shard_bytes = std::int64_t{5} << 30;
  // Called after each tensor with the bytes written and all bytes; what it throws ends the writing,
  // of which nothing is left. Empty: not called.
  std::function<void(std::int64_t done, std::int64_t all)> progress;
};

// One safetensors file by itself, for results that are no model.
void write_safetensors(const fs::path& path, const std::vector<OutTensor>& tensors);

// Writes `path` with a file ".qad" that tells its origin. Replaces an earlier result that has this
// file, or an empty folder; any other folder there is an Error, at once (see AtomicFolder).
void write_folder(const fs::path& path, const OutFolder& folder);

// Bytes of a tensor of this type and shape; throws Error when there is no such tensor.
std::int64_t bytes_of(const OutTensor& t);

// Throws Error when the disk of `folder` lacks room for so many bytes.
void check_space(const fs::path& folder, std::uintmax_t bytes);

inline constexpr const char* kMark = ".qad";  // the file that says that a folder is ours to replace
// Its content.
std::string mark_text();

// For commands, before long work: throws Error when write_folder(out) would refuse, and when `out`
// is the folder or file that is read, lies in it or holds it.
void check_writable_target(const fs::path& out, const fs::path& source);

}  // namespace qad::checkpoint
