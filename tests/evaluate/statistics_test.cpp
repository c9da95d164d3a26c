// The bootstrap against what the central limit theorem says of the same points.
#include "evaluate/statistics.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace qad::evaluate {
namespace {

// A standard error from 10,000 resamplings is itself uncertain by 1 / sqrt(2 * 10,000) = 0.7 %; an
// end of an interval, the 2.5th percentile of a normal distribution, by 2.7 % of the standard
// error.
constexpr double kOfError = 5 * 0.007, kOfEnds = 5 * 0.027;

std::vector<Points> coin(std::size_t n, double p, std::uint64_t seed) {
  Random random{seed};
  std::vector<Points> points(n);
  for (Points& x : points) x = {random.uniform() < p ? 1.0 : 0.0, 1};
  return points;
}

TEST(Statistics, AShareHasItsBinomialError) {
  const std::vector<Points> points = coin(1000, 0.3, 1);
  double mean = 0;
  for (const Points& x : points) mean += x.passed / 1000;
  const double se = std::sqrt(mean * (1 - mean) / 1000);
  const Estimate e = estimate(points);
  EXPECT_DOUBLE_EQ(e.mean, mean);
  EXPECT_NEAR(e.se, se, kOfError * se);
  // Discrete: an end lies on a multiple of 1/1000.
  EXPECT_NEAR(e.low, mean - 1.96 * se, kOfEnds * se + 0.001);
  EXPECT_NEAR(e.high, mean + 1.96 * se, kOfEnds * se + 0.001);
}

TEST(Statistics, ProblemsCountByTheirPoints) {
  const std::vector<Points> points = {{1, 1}, {1, 3}};
  EXPECT_DOUBLE_EQ(estimate(points).mean, 0.5);
  // Half of the resamplings have both: 1/2; a quarter each has one of them twice: 1, 1/3. Their
  // variance is (0 + 1/4 * (1 - m)^2 ...) about the mean m = 7/12.
  const double m = 7.0 / 12;
  const double variance =
      0.5 * std::pow(0.5 - m, 2) + 0.25 * std::pow(1 - m, 2) + 0.25 * std::pow(1.0 / 3 - m, 2);
  EXPECT_NEAR(estimate(points).se, std::sqrt(variance), kOfError * std::sqrt(variance));
}

TEST(Statistics, WhatIsCertainHasNoWidth) {
  const std::vector<Points> points(7, {3, 4});
  const Estimate e = estimate(points);
  EXPECT_DOUBLE_EQ(e.mean, 0.75);
  EXPECT_NEAR(e.se, 0, 1e-12);
  EXPECT_DOUBLE_EQ(e.low, 0.75);
  EXPECT_DOUBLE_EQ(e.high, 0.75);
}

TEST(Statistics, ADifferenceIsPaired) {
  // b is a, but for 30 of 1000 problems that it gets right and 10 that it no longer does: the
  // difference of each problem is -1, 0 or 1.
  std::vector<Points> a = coin(1000, 0.5, 2), b = a;
  int better = 30, worse = 10;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].passed == 0 && better > 0) b[i].passed = 1, --better;
    if (a[i].passed == 1 && worse > 0) b[i].passed = 0, --worse;
  }
  const Estimate d = paired_difference(a, b);
  EXPECT_NEAR(d.mean, 0.02, 1e-12);
  const double se = std::sqrt((0.04 - 0.02 * 0.02) / 1000);
  EXPECT_NEAR(d.se, se, kOfError * se);
  EXPECT_LT(d.se, estimate(a).se);
  EXPECT_GT(d.low, 0);

  const Estimate same = paired_difference(a, a);
  EXPECT_EQ(same.mean, 0);
  EXPECT_EQ(same.se, 0);
}

TEST(Statistics, TheSamePointsGiveTheSameFigures) {
  const std::vector<Points> points = coin(50, 0.4, 3);
  EXPECT_EQ(estimate(points).se, estimate(points).se);
  EXPECT_EQ(estimate(points).low, estimate(points).low);
}

TEST(Statistics, NoProblemsAreAnError) {
  EXPECT_THROW(estimate({}), Error);
  const std::vector<Points> one(1), two(2);
  EXPECT_THROW(paired_difference(one, two), Error);
}

}  // namespace
}  // namespace qad::evaluate
