// The rotary scaling of a GGUF model in config.json's words.
#pragma once

#include "checkpoint/gguf_keys.h"

namespace qad::checkpoint {

// rope_scaling of config.json; null for none. Linear and YaRN have keys; Llama 3's parameters are
// recovered from the divisors in rope_freqs.weight. `keys` are the architecture's. Throws Error for
// any other scaling.
Json gguf_rope_scaling(const GgufFile& file, const Keys& keys, std::int64_t head_dim, double theta);

// The way back: adds rope.scaling keys to `keys` (whose names begin with `arch`), or returns the
// divisors of Llama 3's scaling for rope_freqs.weight, head_dim / 2 of them; empty for none.
// `config` is config.json. Throws Error for what GGUF has no word for.
std::vector<float> rope_to_gguf(const Json& config, const std::string& arch, std::int64_t head_dim,
                                Json& keys);

}  // namespace qad::checkpoint
