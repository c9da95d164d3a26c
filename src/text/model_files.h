// The text side of a model on disk: its tokenizer whatever the format, and the files that a copy of
// the model needs beside its weights.
#pragma once

#include "checkpoint/checkpoint.h"
#include "text/tokenizer.h"

namespace qad::text {

// Hugging Face folder: see load_tokenizer. GGUF: the embedded vocabulary. llama2.c: tokenizer.bin
// or tok<vocab>.bin in the same folder.
Tokenizer tokenizer_of(const checkpoint::Checkpoint& model);

// (name, content) of tokenizer.json, tokenizer_config.json, special_tokens_map.json, vocab.json,
// merges.txt, chat_template.jinja, ...: copied from a Hugging Face folder, made from the vocabulary
// of GGUF and llama2.c.
std::vector<std::pair<std::string, std::string>> companion_files(
    const checkpoint::Checkpoint& source);

}  // namespace qad::text
