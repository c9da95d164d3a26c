// NVFP4 linears in ModelOpt's unified layout (formats.md 2): X.weight U8 [N, K/2], X.weight_scale
// F8_E4M3 [N, K/16], X.weight_scale_2 F32 [], X.input_scale F32 [] (W4A4 only);
// hf_quant_config.json and config.json's quantization_config. One place knows these names.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/write.h"

namespace qad::checkpoint {

// Checkpoint::quantization, read. Default: unquantised.
struct Quantization {
  std::string method;  // "modelopt", "compressed-tensors", ...
  std::string algo;    // "NVFP4", "W4A16_NVFP4", "MIXED_PRECISION", "FP8", ...; empty: unquantised
  std::string kv_cache_algo;  // "FP8", ... or empty
  std::string producer;
  int group_size = 0;                         // 0: not given
  std::vector<std::string> excluded;          // exact names, globs, prefixes ending in '*'
  std::map<std::string, std::string> layers;  // MIXED_PRECISION: layer or prefix -> algorithm

  bool excludes(const std::string& name) const;  // by `excluded`; name without ".weight"
  // The algorithm of a linear, embedding or head; empty: the configuration leaves it unquantised.
  std::string algo_of(const std::string& name) const;
};
// Throws Error for malformed metadata, not for an algorithm that we cannot compute with (find_nvfp4
// does).
Quantization read_quantization(const Json& quantization);

// The metadata of a checkpoint, in ModelOpt's words, whose linears have these algorithms ("NVFP4",
// "W4A16_NVFP4"): for formats that say it otherwise. `method` is theirs. Null when there is none.
Json quantization_of(const Checkpoint& c, const std::map<std::string, std::string>& algos,
                     const std::string& method);

// The quantised form of one linear's weight, `name` without ".weight".
struct Nvfp4Weight {
  std::string name;
  std::int64_t rows = 0, cols = 0;
  float global_scale = 1;                // weight_scale_2
  std::optional<float> input_scale;      // absent: weight-only
  const Tensor* codes_tensor = nullptr;  // of the checkpoint, which must outlive this
  const Tensor* scales_tensor = nullptr;

  TensorBytes codes() const { return TensorBytes(*codes_tensor); }    // rows * cols/2
  TensorBytes scales() const { return TensorBytes(*scales_tensor); }  // rows * cols/16
};

// The NVFP4 weight called `name` ("model.layers.0.mlp.up_proj"), or nullopt when it is stored
// unquantised. Throws Error when its parts are missing, misshapen or not finite, and when the
// weight is quantised by another algorithm than NVFP4 (with activations) or W4A16_NVFP4 (without).
std::optional<Nvfp4Weight> find_nvfp4(const Checkpoint& c, const std::string& name);

// Appends the three or four tensors of one weight; input_scale absent: weight-only. `fill` is
// called once, at writing: codes holds rows * cols/2 bytes, scales rows * cols/16. cols must be a
// multiple of 16. A global scale that is not known before is asked for after `fill`.
void append_nvfp4(std::vector<OutTensor>& out, const std::string& name, std::int64_t rows,
                  std::int64_t cols, const std::function<float()>& global_scale,
                  std::optional<float> input_scale,
                  std::function<void(std::uint8_t* codes, std::uint8_t* scales)> fill);
void append_nvfp4(std::vector<OutTensor>& out, const std::string& name, std::int64_t rows,
                  std::int64_t cols, float global_scale, std::optional<float> input_scale,
                  std::function<void(std::uint8_t* codes, std::uint8_t* scales)> fill);

// The first two of these under names of a layout's own.
void append_codes_and_scales(std::vector<OutTensor>& out, const std::string& codes_name,
                             const std::string& scales_name, std::int64_t rows, std::int64_t cols,
                             std::function<void(std::uint8_t* codes, std::uint8_t* scales)> fill);

}  // namespace qad::checkpoint
