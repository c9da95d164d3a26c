// Rotary frequencies and their tables, in FP32 operation by operation as Transformers computes
// them.
#pragma once

#include <ATen/core/Tensor.h>

#include "models/config.h"

namespace qad::models {

// FP32 [head_dim / 2]: theta^(-2i / head_dim), scaled as the rope's kind says.
at::Tensor inverse_frequencies(const Rope& rope, std::int64_t head_dim);

// Rows for positions [begin, end), FP32 [end - begin, head_dim / 2].
struct RopeTables {
  at::Tensor cos, sin;
};
RopeTables rope_tables(const Rope& rope, std::int64_t head_dim, std::int64_t begin,
                       std::int64_t end);

}  // namespace qad::models
