// The optimiser's loops: bound by memory, so every array is read and written once.
#include "distill/adamw.h"

#include <array>
#include <cmath>
#include <vector>

#include "ops/simd.h"

namespace qad::distill {

namespace hn = ops::hn;

namespace {
constexpr std::int64_t kGrain = 16384;  // elements a thread should get at least
}

void adamw_update(const AdamW& a, const float* gradient, float* m, float* v, float* master,
                  std::int64_t n) {
  const ops::FloatTag d;
  const auto set = [&](double x) { return hn::Set(d, static_cast<float>(x)); };
  const double t = static_cast<double>(a.step);
  const auto scale = set(a.scale);
  const auto keep1 = set(1 - a.beta1), beta2 = set(a.beta2), keep2 = set(1 - a.beta2);
  const auto decay = set(1 - a.learning_rate * a.weight_decay);
  const auto rate = set(a.learning_rate / (1 - std::pow(a.beta1, t)));
  const auto correction = set(1 / std::sqrt(1 - std::pow(a.beta2, t)));
  const auto epsilon = set(a.epsilon);
  at::parallel_for(0, n, kGrain, [&](std::int64_t begin, std::int64_t end) {
    ops::for_lanes(d, end - begin, [&](std::int64_t offset, std::int64_t lanes) {
      const std::int64_t i = begin + offset;
      const auto g = hn::Mul(ops::load(d, gradient + i, lanes), scale);
      auto mi = ops::load(d, m + i, lanes);
      auto vi = ops::load(d, v + i, lanes);
      mi = hn::MulAdd(keep1, hn::Sub(g, mi), mi);
      vi = hn::MulAdd(hn::Mul(keep2, g), g, hn::Mul(vi, beta2));
      const auto denominator = hn::MulAdd(hn::Sqrt(vi), correction, epsilon);
      const auto w = hn::Mul(ops::load(d, master + i, lanes), decay);
      ops::store(d, mi, m + i, lanes);
      ops::store(d, vi, v + i, lanes);
      ops::store(d, hn::Sub(w, hn::Div(hn::Mul(rate, mi), denominator)), master + i, lanes);
    });
  });
}

double sum_of_squares(std::span<const float> x) {
  constexpr std::size_t kLanes = 8;
  const std::int64_t n = static_cast<std::int64_t>(x.size()), chunks = (n + kGrain - 1) / kGrain;
  std::vector<double> partial(static_cast<std::size_t>(chunks));
  at::parallel_for(0, chunks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
      const auto part = x.subspan(static_cast<std::size_t>(c * kGrain),
                                  static_cast<std::size_t>(std::min(kGrain, n - c * kGrain)));
      std::array<double, kLanes> sums{};
      std::size_t i = 0;
      for (; i + kLanes <= part.size(); i += kLanes)
        for (std::size_t j = 0; j < kLanes; ++j)
          sums[j] += double(part[i + j]) * double(part[i + j]);
      for (; i < part.size(); ++i) sums[0] += double(part[i]) * double(part[i]);
      for (double s : sums) partial[static_cast<std::size_t>(c)] += s;
    }
  });
  double sum = 0;
  for (double p : partial) sum += p;
  return sum;
}

}  // namespace qad::distill
