// The "decoder" of tokenizer.json: tokens back to text.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/json.h"

namespace qad::text {

// Changes the list of tokens in place; the text is what they then join to.
using Decoder = std::function<void(std::vector<std::string>&)>;

// Throws Error naming a component that is not supported.
Decoder make_decoder(const Json& decoder);

}  // namespace qad::text
