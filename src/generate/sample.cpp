// Drawing one token from a distribution, in double precision.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "generate/generate.h"

namespace qad::generate {
namespace {

struct Candidate {
  double weight;  // proportional to its probability
  std::int64_t id;
};

// The likeliest tokens first, cut by top_k and top_p. Only as many as needed are sorted.
std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions& o) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  std::vector<Candidate> all(logits.size());
  double sum = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    all[i] = {std::exp((logits[i] - largest) / o.temperature), static_cast<std::int64_t>(i)};
    sum += all[i].weight;
  }
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  };
  const std::size_t most =
      o.top_k > 0 ? std::min(all.size(), static_cast<std::size_t>(o.top_k)) : all.size();
  if (most < all.size()) {
    std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(most), all.end(),
                      likelier);
    all.resize(most);
    sum = std::accumulate(all.begin(), all.end(), 0.0,
                          [](double s, const Candidate& c) { return s + c.weight; });
  }
  if (o.top_p >= 1) return all;
  std::sort(all.begin(), all.end(), likelier);
  double kept = 0;
  std::size_t n = 0;
  while (n < all.size() && kept < o.top_p * sum) kept += all[n++].weight;
  all.resize(std::max<std::size_t>(n, 1));
  return all;
}

}  // namespace

text::TokenId sample(const at::Tensor& logits, const SamplingOptions& options, std::int64_t step) {
  const at::Tensor flat = logits.detach().to(at::kCPU, at::kFloat).contiguous().view({-1});
  const std::span values(flat.const_data_ptr<float>(), static_cast<std::size_t>(flat.numel()));
  check(std::none_of(values.begin(), values.end(), [](float x) { return std::isnan(x); }),
        "generate", "logits: expected numbers, found NaN");
  if (options.temperature == 0)
    return static_cast<text::TokenId>(std::max_element(values.begin(), values.end()) -
                                      values.begin());
  const auto from = candidates(values, options);
  double left = Random{options.seed, static_cast<std::uint64_t>(step)}.uniform();
  left *= std::accumulate(from.begin(), from.end(), 0.0,
                          [](double s, const Candidate& c) { return s + c.weight; });
  for (const Candidate& c : from)
    if ((left -= c.weight) < 0) return static_cast<text::TokenId>(c.id);
  return static_cast<text::TokenId>(from.front().id);  // rounding left a crumb
}

}  // namespace qad::generate
