// Scores with their uncertainty: the problems are a sample of those that could have been asked, so
// everything is resampled over problems (the bootstrap; Efron 1979), with all samples of a problem
// together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace qad::evaluate {

// What a problem's samples earned together: `passed` of `total` points.
struct Points {
  double passed = 0, total = 0;
};

struct Estimate {
  double mean = 0;           // sum of passed over sum of total
  double se = 0;             // standard error
  double low = 0, high = 0;  // 95 %: the bootstrap's percentiles
};

// Over 10,000 resamplings of the problems with a fixed seed: the same points give the same figures.
// Of one problem nothing is known: se 0 and an interval of no width. Error for no points at all.
Estimate estimate(std::span<const Points> problems);

// b - a on the same problems, each resampling drawing the same problems for both, so that what
// makes a problem hard for both cancels out. Error for other numbers of problems.
Estimate paired_difference(std::span<const Points> a, std::span<const Points> b);

}  // namespace qad::evaluate
