// Whether two readings of answers say the same.
#pragma once

#include "score/math_expr.h"

namespace qad::score::math {

// The reference first. Conventions: docs/math-verdicts.md.
bool same_answer(const Expr& reference, const Expr& answer);

}  // namespace qad::score::math
