// tokenizer.json taken apart: the long lists (vocabulary, merges) as plain vectors, everything else
// as JSON. The house JSON keeps key order and so looks keys up one by one, which a vocabulary of
// 150,000 cannot afford.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "text/tokenizer.h"

namespace qad::text {

struct TokenizerSpec {
  Json rest;  // the file without model.vocab and model.merges
  std::vector<std::pair<std::string, TokenId>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
};

// Throw Error "[tokenizer] <where>: ...".
TokenizerSpec parse_tokenizer_json(std::string_view text, std::string_view where);
TokenizerSpec spec_of(const Json& tokenizer_json);
// Of an HF folder: tokenizer.json, or vocab.json and merges.txt.
TokenizerSpec load_spec(const fs::path& folder);
// tokenizer_config.json over special_tokens_map.json; {} for neither.
Json load_tokenizer_config(const fs::path& folder);
// Without what tokenizer_config.json says.
Tokenizer tokenizer_from_spec(const TokenizerSpec& spec);

// "a b" as a pair; throws Error unless there is exactly one space.
std::pair<std::string, std::string> split_merge(std::string_view merge);

// Members with a type check; the error names the member and the kind of component it is missing
// from.
std::string string_at(const Json& object, const char* key, std::string_view where);
bool bool_at(const Json& object, const char* key, bool otherwise);
// A whole number from 0 to 2^30; throws Error naming `where`.
std::size_t natural(const Json& number, std::string_view where);
// object.type, "" when there is none.
std::string type_of(const Json& component);

}  // namespace qad::text
