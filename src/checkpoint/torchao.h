// torchao's NVFP4 in a Hugging Face folder, as Transformers saves and loads it: X._weight_qdata U8
// [N, K/2], whose bytes are ModelOpt's codes; X._weight_scale F8_E4M3, [N, K/16] or in the order of
// the tensor cores; X._weight_per_tensor_scale and X._weight_act_per_tensor_scale F32 [], both
// multipliers. What they are parts of stands in the __metadata__ of every safetensors file, and
// config.json's quantization_config names the recipe. Source: torchao 0.18, Transformers 5.23.
#pragma once

#include "checkpoint/formats.h"

namespace qad::checkpoint {

// Gives the tensors and metadata of a folder in this layout their names of ModelOpt's; nothing for
// another. `metadata`: of all its files. Throws Error for torchao's other types, for inputs whose
// scale is not in the file, and for malformed parts.
void adopt_torchao(Checkpoint& c, const Json& quantization_config,
                   const std::map<std::string, std::string>& metadata);

// Block scales in the order that NVIDIA's FP4 products read ("swizzled"): tiles of 128 rows and 4
// columns, 512 bytes each, filled up with zeros. Bytes of a matrix with rows x cols of them.
std::int64_t swizzled_bytes(std::int64_t rows, std::int64_t cols);
void swizzle_scales(const std::uint8_t* scales, std::int64_t rows, std::int64_t cols,
                    std::uint8_t* out);
void unswizzle_scales(const std::uint8_t* swizzled, std::int64_t rows, std::int64_t cols,
                      std::uint8_t* out);

// NVFP4 weights and, where they have them, scales of inputs. FP8 weights become BF16. Throws Error
// for quantised experts.
OutFolder torchao_folder(const OutModel& m, std::vector<std::string>& changes);

}  // namespace qad::checkpoint
