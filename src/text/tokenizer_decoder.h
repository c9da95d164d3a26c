// The "decoder" of tokenizer.json: tokens back to text.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace qad::text {

// Changes the list of tokens in place; the text is what they then join to.
using Decoder = std::function<void(std::vector<std::string>&)>;

// Throws Error naming a component that is not supported.
Decoder make_decoder(const Json& decoder);

// The bytes that a token of the vocabulary stands for, which may be part of a character: of
// characters in GPT-2's alphabet (byte_level), else of SentencePiece's, where a word begins with
// U+2581 and "<0x0A>" is a byte.
std::string token_bytes(std::string_view token, bool byte_level);

}  // namespace qad::text
