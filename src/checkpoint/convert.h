// Any checkpoint as an unquantised Hugging Face folder.
#pragma once

#include "checkpoint/write.h"

namespace qad::checkpoint {

// Stores FP32 values as F32 or BF16 (nearest even). Throws Error for other types.
void store_f32(const float* values, std::int64_t count, DType dtype, std::byte* out);

// Every tensor of `source`, values unchanged up to the type: `dtype`, or by default the type they
// are stored in, BF16 for GGUF's block formats. Throws Error for a quantised source. `source` must
// outlive the folder.
OutFolder unquantized_folder(const Checkpoint& source, std::optional<DType> dtype);

}  // namespace qad::checkpoint
