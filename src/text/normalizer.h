// The "normalizer" of tokenizer.json: what happens to a text before it is cut.
#pragma once

#include <functional>
#include <string>

#include "core/json.h"

namespace qad::text {

// Changes valid UTF-8 in place. Empty when the file asks for nothing.
using Normalizer = std::function<void(std::string&)>;

// Throws Error naming a component that is not supported.
Normalizer make_normalizer(const Json& normalizer);

}  // namespace qad::text
