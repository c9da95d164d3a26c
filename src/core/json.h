// JSON as Hugging Face writes it: strict, but for the bare tokens Infinity, -Infinity and NaN that
// Python emits; those arrive as strings of the same letters.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>

#include "core/file.h"

namespace qad {

using Json = nlohmann::ordered_json;  // keeps the key order of the files we pass on

// Throws Error "[parse_json] <where>: ... at byte N". Duplicate keys and nesting beyond 256 levels
// are errors.
Json parse_json(std::string_view text, std::string_view where);
Json read_json(const fs::path& path);

// As Hugging Face writes it: two spaces of indentation, a newline at the end; the strings
// "Infinity", "-Infinity" and "NaN" become bare words again (so this is for configurations, not for
// vocabularies). Throws Error for a string that is not UTF-8.
std::string to_text(const Json& json);

}  // namespace qad
