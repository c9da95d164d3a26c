// ModelOpt's unified Hugging Face layout: hf_quant_config.json, and config.json's
// quantization_config which says the same. Tensors are those of nvfp4_tensors.h, and for FP8
// X.weight F8_E4M3, X.weight_scale F32 [] (or [rows]), X.input_scale F32 []; an FP8 cache has
// k_proj.k_scale and v_proj.v_scale, F32 [].
#pragma once

#include "checkpoint/formats.h"

namespace qad::checkpoint {

struct QuantConfigs {
  Json hf_quant_config, quantization_config;
};

// What ModelOpt writes for these algorithms by linear ("NVFP4", "W4A16_NVFP4", "FP8",
// "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4_SVD"; at least one) beside linears, embeddings and heads that
// are left alone. kv_cache: "FP8" or empty; low_rank: of NVFP4_SVD.
QuantConfigs quant_configs(const std::map<std::string, std::string>& algos,
                           const std::vector<std::string>& excluded, const std::string& kv_cache,
                           std::int64_t low_rank = 0);

}  // namespace qad::checkpoint
