// Answers to mathematical questions, compared as mathematics and not as strings: what a response
// answers, and whether that is what the reference says. For benchmarks whose answers are short:
// MATH500, AIME, GSM8K.
//
//   if (math_equal(reference, final_answer(response))) ++right;
//
// Formulas are equal when their values are: exactly, in rational arithmetic, where they are
// polynomials or fractions of them, and else in floating point within a bound of its error, at
// fixed points of their variables (DeMillo and Lipton, 1978; Schwartz, 1980; Zippel, 1979).
// docs/math-verdicts.md has the conventions and how often verdicts are right.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace qad::score {

// What the last \boxed{...} or \fbox{...} holds, nested braces and all, or what follows "\boxed "
// up to the next space, dollar sign or line's end. None if there is no box or the last one never
// ends.
std::optional<std::string> last_boxed(std::string_view response);

// The last number of a text, without currency and thousands separators: "-1234.5" for "...
// -$1,234.50"; digits as written otherwise.
std::optional<std::string> last_number(std::string_view response);

// What a response answers: its last box; else what follows the last "####", "answer is", "answer:"
// on its line; else the last formula between dollar signs, \( \) or \[ \], or number, whichever is
// later; else its last line.
std::string final_answer(std::string_view response);

// Whether two answers (in LaTeX, in plain text or in a mixture) say the same. Never throws, and
// returns soon whatever is given: answers over 8,192 bytes or 64 levels deep are compared as text.
bool math_equal(std::string_view reference, std::string_view answer);

}  // namespace qad::score
