// The rotary scaling of a GGUF model in config.json's words.
#pragma once

#include "checkpoint/gguf_keys.h"

namespace qad::checkpoint {

// rope_scaling of config.json; null for none. Linear and YaRN have keys; Llama 3's parameters are
// recovered from the divisors in rope_freqs.weight. `keys` are the architecture's. Throws Error for
// any other scaling.
Json gguf_rope_scaling(const GgufFile& file, const Keys& keys, std::int64_t head_dim, double theta);

}  // namespace qad::checkpoint
