// "Did you mean": the known word nearest to a mistyped one, for error messages.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace qad {

// Levenshtein's distance: the number of letters to change, add or drop.
std::size_t edit_distance(std::string_view a, std::string_view b);

// Of `known` the word with the least edit distance to `word`; empty when none is within a third of
// its letters.
std::string nearest(std::string_view word, std::span<const std::string> known);

// "; did you mean \"x\"?" or empty.
std::string did_you_mean(std::string_view word, std::span<const std::string> known);

}  // namespace qad
