// The bootstrap, of one set of points and of two over the same problems.
#include "evaluate/statistics.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace qad::evaluate {
namespace {

constexpr std::int64_t kResamplings = 10'000;
constexpr std::uint64_t kSeed = 1979;

double ratio(double passed, double total) {
  return total > 0 ? passed / total : 0;
}

// `value(draw)` is the statistic of the problems draw(0), draw(1), ... draw(n - 1).
template <class Value>
Estimate bootstrap(std::size_t n, const Value& value) {
  std::vector<std::size_t> drawn(n);
  for (std::size_t i = 0; i < n; ++i) drawn[i] = i;
  Estimate e;
  e.mean = value(drawn);
  Random random{kSeed};
  std::vector<double> values(kResamplings);
  double sum = 0;
  for (double& v : values) {
    for (std::size_t& i : drawn) i = random.below(n);
    v = value(drawn);
    sum += v;
  }
  const double center = sum / kResamplings;
  double squares = 0;
  for (const double v : values) squares += (v - center) * (v - center);
  e.se = std::sqrt(squares / (kResamplings - 1));
  std::sort(values.begin(), values.end());
  e.low = values[kResamplings / 40];
  e.high = values[kResamplings - 1 - kResamplings / 40];
  return e;
}

}  // namespace

Estimate estimate(std::span<const Points> problems) {
  check(!problems.empty(), "estimate", "no problems were scored");
  return bootstrap(problems.size(), [&](const std::vector<std::size_t>& drawn) {
    double passed = 0, total = 0;
    for (const std::size_t i : drawn) passed += problems[i].passed, total += problems[i].total;
    return ratio(passed, total);
  });
}

Estimate paired_difference(std::span<const Points> a, std::span<const Points> b) {
  check(a.size() == b.size() && !a.empty(), "paired_difference",
        "expected the same problems, found {} and {}", a.size(), b.size());
  return bootstrap(a.size(), [&](const std::vector<std::size_t>& drawn) {
    double passed[2] = {}, total[2] = {};
    for (const std::size_t i : drawn) {
      passed[0] += a[i].passed, total[0] += a[i].total;
      passed[1] += b[i].passed, total[1] += b[i].total;
    }
    return ratio(passed[1], total[1]) - ratio(passed[0], total[0]);
  });
}

}  // namespace qad::evaluate
