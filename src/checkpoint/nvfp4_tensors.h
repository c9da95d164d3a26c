// NVFP4 linears in ModelOpt's unified layout (formats.md 2): X.weight U8 [N, K/2], X.weight_scale F8_E4M3
// [N, K/16], X.weight_scale_2 F32 [], X.input_scale F32 [] (W4A4 only); hf_quant_config.json and config.json's
// quantization_config. One place knows these names.
#pragma once

#include "checkpoint/write.h"

namespace qad::checkpoint {

// The quantised form of one linear's weight, `name` without ".weight".
struct Nvfp4Weight {
  std::string name;
  std::int64_t rows = 0, cols = 0;
  float global_scale = 1;               // weight_scale_2
  std::optional<float> input_scale;     // absent: weight-only
  std::span<const std::byte> codes;     // rows * cols/2
  std::span<const std::byte> scales;    // rows * cols/16
};

// The NVFP4 weight called `name` ("model.layers.0.mlp.up_proj"), or nullopt when it is stored unquantised.
// Throws Error when its parts are missing, misshapen or not finite.
std::optional<Nvfp4Weight> find_nvfp4(const Checkpoint& c, const std::string& name);

// Appends the three or four tensors of one weight. `fill` gives codes and scales when asked for.
void append_nvfp4(std::vector<OutTensor>& out, const std::string& name, std::int64_t rows, std::int64_t cols,
                  float global_scale, std::optional<float> input_scale,
                  std::function<void(std::uint8_t* codes, std::uint8_t* scales)> fill);

// hf_quant_config.json and the flat quantization_config, for a model whose quantised linears are `quantized` and
// whose other linears (and lm_head, embeddings) are `excluded`; weight_only -> W4A16_NVFP4.
struct QuantConfigs {
  Json hf_quant_config, quantization_config;
};
QuantConfigs quant_configs(const std::vector<std::string>& excluded, bool weight_only);

}  // namespace qad::checkpoint
