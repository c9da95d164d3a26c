// Structure only: which files there are and that they agree. What the tensors mean is for the rooms
// below.
#include "checkpoint/hf_folder.h"

#include "checkpoint/compressed_tensors.h"
#include "checkpoint/fp8.h"
#include "checkpoint/mlx.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torchao.h"
#include "core/error.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOperation = "open";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kSingle = "model.safetensors";

Json read_object(const fs::path& path) {
  Json json = read_json(path);
  check(json.is_object(), kOperation, "{}: expected a JSON object", path.string());
  return json;
}

Json read_if_present(const fs::path& path) {
  return fs::exists(path) ? read_object(path) : Json();
}

using Metadata = std::map<std::string, std::string>;

void add_file(Checkpoint& c, Metadata& metadata, SafetensorsFile file) {
  for (Tensor& tensor : file.tensors) {
    const auto [at, fresh] = c.tensors.try_emplace(tensor.name, tensor);
    check(fresh, kOperation, "{}: tensor {} is also in another shard", file.file.path().string(),
          at->first);
  }
  metadata.merge(file.metadata);
  c.files.push_back(std::move(file.file));
}

// The index names each tensor's shard. A name with a folder in it could point anywhere on the
// machine.
std::map<std::string, std::string> read_weight_map(const fs::path& path) {
  const Json index = read_object(path);
  const auto weight_map = index.find("weight_map");
  check(weight_map != index.end() && weight_map->is_object() && !weight_map->empty(), kOperation,
        "{}: expected a non-empty object \"weight_map\"", path.string());
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : weight_map->items()) {
    check(shard.is_string(), kOperation, "{}: expected a file name for tensor {}", path.string(),
          tensor);
    const auto& file = shard.get_ref<const std::string&>();
    check(file.ends_with(".safetensors") &&
              file.find_first_of(std::string_view("/\\\0", 3)) == file.npos,
          kOperation,
          "{}: tensor {}: expected the name of a .safetensors file in this folder, found {}",
          path.string(), tensor, shard.dump());
    shard_of[tensor] = file;
  }
  return shard_of;
}

void add_shards(Checkpoint& c, Metadata& metadata, const fs::path& folder) {
  const fs::path index = folder / kIndex;
  const auto shard_of = read_weight_map(index);
  std::map<std::string, std::string> first_tensor;
  for (const auto& [tensor, shard] : shard_of) first_tensor.try_emplace(shard, tensor);
  for (const auto& [shard, tensor] : first_tensor) {
    check(fs::exists(folder / shard), kOperation,
          "{}: missing shard {} (tensor {}); is the download complete?", folder.string(), shard,
          tensor);
    SafetensorsFile file = read_safetensors(folder / shard);
    for (const Tensor& found : file.tensors) {
      const auto listed = shard_of.find(found.name);
      check(listed != shard_of.end() && listed->second == shard, kOperation,
            "{}: {} holds tensor {}, which the index puts in {}; do they belong together?",
            index.string(), shard, found.name,
            listed == shard_of.end() ? "no shard" : listed->second);
    }
    add_file(c, metadata, std::move(file));
  }
  for (const auto& [tensor, shard] : shard_of)
    check(c.has(tensor), kOperation, "{}: tensor {} is not in {}, where the index puts it",
          index.string(), tensor, shard);
}

[[noreturn]] void fail_without_weights(const fs::path& folder) {
  std::string found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".gguf") ||
        name.ends_with(".safetensors"))
      found += (found.empty() ? "" : ", ") + name;
  }
  fail(kOperation,
       "{}: expected {} or {}, found {}; PyTorch pickles must be converted to safetensors, a GGUF "
       "file is opened by "
       "its own name",
       folder.string(), kSingle, kIndex, found.empty() ? "no weights" : found);
}

// A model whose weights are all read as plain values (FP8, MXFP4) is not quantised as far as anyone
// else is concerned: it can teach, and be quantised anew.
void forget_dequantized(Checkpoint& c) {
  bool decoded = false, codes = false;
  for (const auto& [name, t] : c.tensors) {
    decoded |= t.read && !t.stored_as.empty();
    codes |= t.fp8 && t.fp8->quantizes_inputs();
    codes |= t.dtype == DType::u8 || t.dtype == DType::u32 || t.dtype == DType::other;
  }
  if (decoded && !codes) c.quantization = {};
}

}  // namespace

void adopt_layouts(Checkpoint& c, const Json& quantization_config, const Metadata& metadata) {
  adopt_mlx(c);
  adopt_compressed_tensors(c, quantization_config);
  adopt_torchao(c, quantization_config, metadata);
  adopt_mxfp4(c);
  adopt_fp8(c);
  forget_dequantized(c);
}

Checkpoint open_hf_folder(const fs::path& folder) {
  Checkpoint c;
  c.path = folder;
  c.format = "safetensors";
  check(
      fs::exists(folder / "config.json"), kOperation,
      "{}: expected a Hugging Face folder with config.json and {} (or {}); config.json is missing",
      folder.string(), kSingle, kIndex);
  c.config = read_object(folder / "config.json");
  c.generation_config = read_if_present(folder / "generation_config.json");
  Json flat;
  if (const auto it = c.config.find("quantization_config"); it != c.config.end()) {
    flat = *it;
    c.config.erase(it);
  }
  c.quantization = normalised_quantization(read_if_present(folder / "hf_quant_config.json"), flat);

  // With both present Transformers takes the single file, and so do we.
  Metadata metadata;
  if (fs::exists(folder / kSingle)) {
    add_file(c, metadata, read_safetensors(folder / kSingle));
  } else if (fs::exists(folder / kIndex)) {
    add_shards(c, metadata, folder);
  } else {
    fail_without_weights(folder);
  }
  adopt_layouts(c, flat, metadata);
  return c;
}

}  // namespace qad::checkpoint
