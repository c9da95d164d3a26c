// The value of a formula at a point: exact, as a complex number with rational parts, while it is
// one and short enough, and always as a floating-point number with a bound of its error. Equality
// is decided exactly or within that bound, never by a tolerance that somebody chose.
#pragma once

#include <gmpxx.h>

#include <complex>
#include <optional>
#include <string_view>
#include <vector>

namespace qad::score::math {

struct Value {
  bool exact = false;  // then the value is re + im i
  mpq_class re, im;
  std::complex<long double> z;  // finite unless exact
  long double error = 0;        // |z - the true value| is at most this
};

// Work left to one comparison, in steps (one for an operation, one more for each 64 bits of an
// exact operand). Formulas are short; what was written to keep a grader busy runs out, and then
// nothing has a value.
struct Budget {
  long steps = 500'000;
  bool spend(long cost) { return (steps -= cost) > 0; }
};

Value exact_value(mpq_class re, mpq_class im = 0);
Value approximate(std::complex<long double> z, long double error);

// No value where the operation has none (division by zero), where it is not known to have one (by
// what may be zero), or where it is too large for a long double and for 65,536 bits.
using Maybe = std::optional<Value>;
Maybe add(const Value& a, const Value& b, Budget& budget);
Maybe subtract(const Value& a, const Value& b, Budget& budget);
Maybe multiply(const Value& a, const Value& b, Budget& budget);
Maybe divide(const Value& a, const Value& b, Budget& budget);
// Of real bases with rational exponents of odd denominator the real power: (-8)^(1/3) is -2. 0^0
// is 1.
Maybe power(const Value& a, const Value& b, Budget& budget);
// The functions that formulas name: sin, ..., arcsin, ..., sinh, ..., exp, ln, sqrt, abs, floor,
// ceil, factorial of one argument; log (base, number), root (degree, number), binom, mod, gcd, lcm,
// max, min of two or more.
bool is_function(std::string_view name);
Maybe call(std::string_view function, const std::vector<Value>& args, Budget& budget);

bool is_real(const Value& v);  // within its error
bool is_zero(const Value& v);

enum class Verdict { kEqual, kDifferent, kUnknown };
// kUnknown: the errors are too large to say.
Verdict compare(const Value& a, const Value& b);
// -1, 0 or 1 of real values: 0 within the error.
int order(const Value& a, const Value& b);

}  // namespace qad::score::math
