// A model on disk, whatever its format: a configuration and named tensors under their Hugging Face
// names. Opening maps files and checks structure; values are read on demand. Formats: a Hugging
// Face folder (safetensors, one file or shards with an index), GGUF, llama2.c .bin.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/json.h"

namespace qad::checkpoint {

enum class DType {
  f64,
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e5m2,
  u8,
  i8,
  i16,
  i32,
  i64,
  u32,
  boolean,
  other
};
std::string_view name_of(DType type);  // as safetensors spells it: "F32", "BF16", "F8_E4M3", ...
std::size_t bytes_per_element(DType type);  // 0 for `other`

struct Fp8Weight;  // fp8.h

// One tensor. `raw` is the mapped bytes when they are stored plainly under `dtype`; a block format
// has `stored_as` ("Q4_1", "F8_E4M3", ...) and dtype f32, and only read_f32 understands it.
struct Tensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> raw;
  std::string stored_as;
  std::int64_t stored_bytes = 0;  // in the file, also where `raw` is empty
  // Set when the stored rows must be read in another order or padded (GGUF q/k permutation,
  // llama2.c): fills `elements()` floats. Empty for a plainly stored tensor.
  std::shared_ptr<const std::function<void(float*)>> read;
  // Set when the bytes of dtype and shape lie in no file as they are (codes and block scales of
  // GGUF's NVFP4, reciprocal scales): fills them. See bytes_of.
  std::shared_ptr<const std::function<void(std::byte*)>> make;
  std::shared_ptr<const Fp8Weight> fp8;  // the codes of an FP8 weight, for formats that keep them

  std::int64_t elements() const;
};

// The bytes of a tensor as dtype and shape have them: where they lie, or made now.
class TensorBytes {
 public:
  explicit TensorBytes(const Tensor& t);
  operator std::span<const std::byte>() const { return view_; }

 private:
  std::vector<std::byte> made_;
  std::span<const std::byte> view_;
};

class Checkpoint {
 public:
  fs::path path;
  std::string format;  // "safetensors", "gguf", "llama2.c"
  Json config;         // config.json without its quantization_config (see `quantization`), or the
                       // equivalent made from GGUF / llama2.c headers
  Json generation_config;  // null when there is none
  // Null when unquantised. Else hf_quant_config.json or config.json's quantization_config, in one
  // flat form: quant_method, quant_algo, group_size, exclude_modules, quantized_layers,
  // kv_cache_quant_algo, producer; keys that the files lack are absent.
  // checkpoint::read_quantization (nvfp4_tensors.h) interprets it. Whatever the format on disk, it
  // and the tensors of NVFP4 weights are those of ModelOpt's layout.
  Json quantization;
  Json metadata;  // GGUF key-values (tokenizer.ggml.*, ...); null elsewhere
  std::map<std::string, Tensor> tensors;

  bool has(const std::string& name) const { return tensors.contains(name); }
  const Tensor& at(const std::string& name) const;  // throws Error naming the nearest existing name

  std::vector<MappedFile> files;  // keeps the maps of `raw` alive
};

// Throws Error for a path that is none of the known formats, and for every malformed file.
Checkpoint open(const fs::path& path);

// For who reads a checkpoint that is larger than memory, one tensor after the other: has the pages
// of one read ahead, or gives them back.
void prefetch(const Checkpoint& c, const Tensor& t);
void release(const Checkpoint& c, const Tensor& t);

// Values as FP32, converting from F32, F16, BF16 or F64, or by the tensor's own `read` or `make`.
// `out` holds t.elements() floats. Throws Error for any other type.
void read_f32(const Tensor& t, float* out);

}  // namespace qad::checkpoint
