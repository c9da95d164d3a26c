// What a GGUF's keys and tensor names mean in Hugging Face's terms, for the architectures llama,
// qwen2 and qwen3.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/gguf_file.h"
#include "core/json.h"

namespace qad::checkpoint {

// config.json from {arch}.* keys and the tensors present. torch_dtype is bfloat16, what such models
// are served in. Throws Error for an architecture, rope scaling or model feature that the config
// could not express.
Json gguf_config(const GgufFile& file);

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; nullopt for a name these
// architectures lack.
std::optional<std::string> gguf_to_hf_name(std::string_view name);

// The way back; nullopt for a tensor that such files don't have.
std::optional<std::string> hf_to_gguf_name(std::string_view name);

// Llama files hold q and k with each head's rows interleaved for ggml's rotary embedding. The
// number of heads when `name` is such a tensor (weight or bias), else 0.
std::int64_t interleaved_heads(std::string_view gguf_name, const Json& config);

}  // namespace qad::checkpoint
