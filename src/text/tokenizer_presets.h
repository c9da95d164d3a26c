// The parts of tokenizer.json for vocabularies that come without one, by the names GGUF gives them.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "text/tokenizer.h"

namespace qad::text {

struct Preset {
  Json normalizer, pre_tokenizer;
  bool ignore_merges = false;
  bool add_bos = false;  // when the file doesn't say
};

// gpt-2, qwen2, llama-bpe, smollm, tekken, deepseek-v3, ...; throws Error for a name that is not
// known.
Preset byte_level_preset(std::string_view name);

// tokenizer.json without vocabulary, merges and added tokens.
Json byte_level_json(const Preset& preset);

// A TemplateProcessing that puts tokens (text, id) before and after.
using NamedToken = std::pair<std::string, TokenId>;
Json template_json(const std::vector<NamedToken>& before, const std::vector<NamedToken>& after);

}  // namespace qad::text
