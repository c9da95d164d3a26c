// What LaTeX's commands are to an answer, without their backslash.
#pragma once

#include <optional>
#include <string_view>

namespace qad::score::math {

bool only_sets_type(
    std::string_view command);  // \left, \displaystyle, \mathbf: as if it were not there
bool drops_argument(std::string_view command);  // \phantom{...}: nor its argument
bool holds_words(std::string_view command);     // \text{...}
// The sign that a command writes: "<=" for \leq, "*" for \cdot, "cup" for \cup.
std::optional<std::string_view> symbol_of(std::string_view command);

}  // namespace qad::score::math
