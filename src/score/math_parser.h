// Reads an answer into a tree. Notation that people read in two ways gives two trees.
#pragma once

#include <string_view>
#include <vector>

#include "score/math_expr.h"

namespace qad::score::math {

// The readings of an answer, the likeliest first; none if it is no mathematics that is known here.
// They differ in what "81,256" (one number or two), "1/2x" (x/2 or 1/(2x)) and "f(x+1)" (a
// function's value or a product) mean.
std::vector<Expr> parse(std::string_view cleaned);

}  // namespace qad::score::math
