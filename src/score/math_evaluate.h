// Formulas at a point, and whether two are the same function of their variables.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "score/math_expr.h"
#include "score/math_value.h"

namespace qad::score::math {

using Point = std::map<std::string, Value>;

// No value for what is no formula, and where math_value.h gives none. Percent and degrees are
// factors, units are not.
Maybe evaluate(const Expr& e, const Point& point, Budget& budget);

// Adds the variables of `e`; true if it also contains i.
bool names_of(const Expr& e, std::set<std::string>& names);

// The k-th of the points at which formulas are compared: rational numbers between 1/16 and 32, the
// first four positive.
Point sample(const std::set<std::string>& names, int k);

// Equal at every sample where both are real (at all, if they are real nowhere or contain i); by
// their trees, if they have no value at any.
bool same_formula(const Expr& a, const Expr& b, Budget& budget);
// a = 0 and b = 0 have the same solutions, as far as b is a constant multiple of a or both
// determine one variable. With `positive` the multiple must be positive, so that a < 0 and b < 0
// have the same solutions.
bool same_zeros(const Expr& a, const Expr& b, bool positive, Budget& budget);

bool same_tree(const Expr& a, const Expr& b);

// The formulas that +- and -+ stand for: both signs of each, together where -+ occurs. `e` itself
// if there are none.
std::vector<Expr> both_signs(const Expr& e);

}  // namespace qad::score::math
