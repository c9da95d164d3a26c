// The mean of a figure per token and its standard error when tokens come in documents.
#pragma once

#include <span>

#include "evaluate/evaluate.h"

namespace qad::evaluate {

// Ratio estimator (Cochran, Sampling Techniques, section 6.4): R = sum y / sum n over documents,
// se^2 = D / (D - 1) * sum (y - R n)^2 / (sum n)^2. With one document the standard error is NaN:
// nothing is known of how documents differ.
Value ratio(std::span<const double> sums, std::span<const double> counts);

}  // namespace qad::evaluate
