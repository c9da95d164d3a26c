// What words mean in answers: functions and Greek letters, units of measurement, numbers that are
// written out.
#pragma once

#include <gmpxx.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace qad::score::math {

bool is_greek(std::string_view word);  // "alpha", ..., "Omega"

// "cos^{-1}", "asin" and "ln" have one name each here ("arccos", "arcsin", "ln"); none for a word
// that is no function.
std::optional<std::string> function_name(std::string_view word);

// A unit as a multiple of the powers of base units: length (m), time (s), mass (kg), money
// (dollar), and the half of a day that a time of the clock lies in.
struct Unit {
  mpq_class factor = 1;
  std::array<int, 5> powers{};
};
// "cm^2", "square feet", "miles per hour", "m/s"; none for words that measure nothing ("apples",
// "units").
std::optional<Unit> unit_of(std::string_view words);
bool is_unit_word(std::string_view word);  // one word, plural or not

std::optional<int> number_of_word(std::string_view word);  // "four", "twenty"

}  // namespace qad::score::math
