// Sets of real numbers as intervals: what unions, inequalities and set differences say.
#pragma once

#include <optional>
#include <string>

#include "score/math_expr.h"
#include "score/math_value.h"

namespace qad::score::math {

struct Interval {
  int low_infinite = 0, high_infinite = 0;  // -1 or 1 for an end at infinity
  Value low, high;                          // the other ends
  bool low_closed = false, high_closed = false;
};

struct RealSet {
  std::vector<Interval> intervals;  // in order, none touching the next
  std::string variable;             // whose set it is, where an inequality says so
};

// Intervals with constant ends, finite sets, unions, intersections, differences, inequalities
// between a variable (or any name, or f(x)) and constants, "x in S", and lists of these.
std::optional<RealSet> real_set(const Expr& e, Budget& budget);
bool same_set(const RealSet& a, const RealSet& b);

// The name that `e` is: of a variable, of a product of letters (AB), of a function's value (f(x)),
// of words.
std::optional<std::string> name_of(const Expr& e);

}  // namespace qad::score::math
