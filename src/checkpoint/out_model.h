// A model on its way out, before it has a format: what each weight is and how to get at its bytes.
// Formats (formats.h) choose names, layouts and metadata.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/fp8.h"
#include "checkpoint/write.h"

namespace qad::checkpoint {

struct OutNvfp4 {
  float global_scale = 1;            // of the value: e2m1 * e4m3 * global_scale
  std::optional<float> input_scale;  // absent: weight-only
  // Called once, at writing: codes holds rows * cols/2 bytes, even columns low, scales rows *
  // cols/16.
  std::function<void(std::uint8_t* codes, std::uint8_t* scales)> fill;
  // Set where the global scale is not known before `fill`: gives it afterwards.
  std::function<float()> late_global = {};

  float global() const { return late_global ? late_global() : global_scale; }
};

struct OutFp8 {
  std::vector<float> scales;         // 1, or one a row; of the value: e4m3 * scale
  std::optional<float> input_scale;  // absent: activations are not quantised, or by the token
  std::function<void(std::uint8_t* codes)> fill;  // called once, at writing: rows * cols bytes
  // Set where there is one scale and it is not known before `fill`: gives it afterwards.
  std::function<float()> late_scale = {};
};

struct OutWeight {
  std::string name;                 // Hugging Face's: "model.layers.0.mlp.up_proj.weight"
  std::vector<std::int64_t> shape;  // of the values
  // One of three. Plain values, which `fill` writes in `dtype`:
  DType dtype = DType::bf16;
  std::function<void(std::byte* out)> fill;
  std::optional<OutNvfp4> nvfp4;
  std::optional<OutFp8> fp8;

  std::string linear() const;  // the name without ".weight"
  bool is_quantized() const { return nvfp4 || fp8; }
};

struct OutModel {
  Json config;             // without quantization_config
  Json generation_config;  // null: none
  std::vector<OutWeight> weights;
  std::string kv_cache_algo;               // "FP8", or empty
  std::map<std::string, float> kv_scales;  // "model.layers.0.self_attn.k_proj.k_scale"
  std::vector<std::pair<std::string, std::string>> files;  // tokenizer and companions, for folders
  Json tokenizer;     // the same as GGUF's tokenizer.* key-values, for files; null: none
  std::string name;   // general.name, and the title of the model card
  std::string about;  // of the model card: what was done, with what, the results; Markdown
  std::function<void(std::int64_t done, std::int64_t all)> progress;  // see OutFolder
  std::int64_t max_shard_bytes = std::int64_t{5} << 30;
};

// "NVFP4", "W4A16_NVFP4", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", or empty for plain values: ModelOpt's
// words.
std::string algo_of(const OutWeight& w);

// The values in FP32, whatever the weight is stored as: shape's number of floats.
void values_of(const OutWeight& w, float* out);

// A plain tensor: `dtype` (F32 or BF16, nearest even), or for plain weights by default their own.
OutTensor plain_tensor(const OutWeight& w, std::optional<DType> dtype = std::nullopt);
// An F32 tensor of these values.
OutTensor scalar_tensor(std::string name, std::vector<std::int64_t> shape,
                        std::vector<float> values);

// The same of one value that is asked for at writing.
OutTensor late_scalar_tensor(std::string name, std::vector<std::int64_t> shape,
                             std::function<float()> value);

// An FP8 weight: X.weight F8_E4M3, X.weight_scale F32 and X.input_scale F32 in the layout's
// shapes.
struct Fp8Shapes {
  std::vector<std::int64_t> scalar;  // of one scale
  bool column = false;               // [rows, 1] instead of [rows]
};
void append_fp8(std::vector<OutTensor>& out, const OutWeight& w, const Fp8Shapes& shapes);

// "SmolLM2-1.7B" of ".../SmolLM2-1.7B/" and of ".../SmolLM2-1.7B.gguf".
std::string model_name(const fs::path& path);

// SVDQuant's correction beside a linear: "X.svdquant_lora_a" and "X.svdquant_lora_b". Of the rank:
// a's rows; 0: there are none.
std::int64_t low_rank_of(const OutModel& m);
// Throws Error where there are some: of all layouts only ModelOpt's has them.
void refuse_low_rank(const OutModel& m, std::string_view format);

// Modules that metadata must name as not quantised: matrices (and larger) that are stored plainly,
// and the head, also where it is tied.
std::vector<std::string> left_alone(const OutModel& m);

// Any opened checkpoint as it could be written again: NVFP4 and FP8 stay what they are; plain
// values as `dtype`, by default as stored, BF16 for GGUF's block formats. `source` must outlive it.
// Throws Error for weights that no format can keep.
OutModel out_model(const Checkpoint& source, std::optional<DType> dtype);

// An HF folder without quantization: config, companions, card, and no tensors yet.
OutFolder bare_folder(const OutModel& m);

}  // namespace qad::checkpoint
