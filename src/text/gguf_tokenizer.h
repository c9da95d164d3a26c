// A model's tokenizer as GGUF keeps it: key-values tokenizer.ggml.* and tokenizer.chat_template.
#pragma once

#include "checkpoint/checkpoint.h"
#include "text/tokenizer.h"

namespace qad::text {

// The key-values of a GGUF of this model; numbers have the sign and kind that GGUF's types have
// (ids unsigned, token types signed, scores floats). From a GGUF: its own. Throws Error for a
// tokenizer.json that llama.cpp has no name for (tokenizer.ggml.pre).
Json gguf_tokenizer(const checkpoint::Checkpoint& source);

// For tests: from the parts of an HF folder's tokenizer.
Json gguf_tokenizer(const Json& tokenizer_json, const Json& tokenizer_config,
                    std::int64_t vocabulary);

}  // namespace qad::text
