// compressed-tensors (llm-compressor, vLLM, Transformers): NVFP4 as X.weight_packed U8 [N, K/2],
// X.weight_scale F8_E4M3 [N, K/16], and the reciprocals of ModelOpt's scalars as
// X.weight_global_scale and X.input_global_scale F32 [1] (the latter absent: weight-only); FP8 as
// X.weight F8_E4M3 with X.weight_scale [1] or [N, 1]; an FP8 cache's self_attn.k_scale and v_scale
// [1]. config.json's quantization_config has groups of targets, which here never overlap.
// Source: compressed-tensors 0.20, its quantization/ and compressors/.
#pragma once

#include "checkpoint/formats.h"

namespace qad::checkpoint {

// Gives the tensors and metadata of a folder in this layout their names of ModelOpt's, or does
// nothing for another; `quantization_config` is config.json's. FP8 and MXFP4 are left to fp8.h.
// Throws Error for schemes that would compute something else (transforms, dynamic 4-bit inputs) and
// malformed parts.
void adopt_compressed_tensors(Checkpoint& c, const Json& quantization_config);

}  // namespace qad::checkpoint
