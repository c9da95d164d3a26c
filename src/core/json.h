// JSON as Hugging Face writes it: strict, but for the bare tokens Infinity, -Infinity and NaN that Python emits;
// those arrive as strings of the same letters.
#pragma once

#include <nlohmann/json.hpp>

#include <string_view>

#include "core/file.h"

namespace qad {

using Json = nlohmann::ordered_json;  // keeps the key order of the files we pass on

// Throws Error "[parse_json] <where>: ... at byte N". Duplicate keys and nesting beyond 256 levels are errors.
Json parse_json(std::string_view text, std::string_view where);
Json read_json(const fs::path& path);

}  // namespace qad
