// Numbers as they are written.
#pragma once

#include <gmpxx.h>

#include <optional>
#include <string>

namespace qad::score::math {

// "12.5", "0.1(6)" (a repeating decimal), "1.5e-3"; none beyond an exponent of 9,999.
std::optional<mpq_class> decimal(const std::string& text);
// Digits 0-9 and A-Z in a base from 2 to 36; none if a digit is not one of the base.
std::optional<mpz_class> based(const std::string& digits, int base);

}  // namespace qad::score::math
