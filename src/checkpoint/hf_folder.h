// A Hugging Face folder: config.json, weights in model.safetensors or in the shards of
// model.safetensors.index.json, and the quantisation metadata beside them.
#pragma once

#include "checkpoint/checkpoint.h"

namespace qad::checkpoint {

Checkpoint open_hf_folder(const fs::path& folder);

// The last step of it: tensors and metadata of other layouts than ModelOpt's (compressed-tensors,
// MLX, torchao, FP8, MXFP4) as Checkpoint promises them. `quantization_config` is config.json's,
// null when absent; `metadata` the files' __metadata__.
void adopt_layouts(Checkpoint& c, const Json& quantization_config,
                   const std::map<std::string, std::string>& metadata);

// hf_quant_config.json (nested) and config.json's quantization_config (flat), each null when
// absent, in one flat form; see Checkpoint::quantization.
Json normalised_quantization(const Json& hf_quant_config, const Json& quantization_config);

}  // namespace qad::checkpoint
