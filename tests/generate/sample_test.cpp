// Sampling against its distribution: the definitions of Transformers' processors, written out
// plainly in FP64, and counts of draws within five standard deviations of what they expect.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "generate/generate.h"

namespace qad::generate {
namespace {

using Logits = std::vector<float>;
using Ids = std::vector<text::TokenId>;

// The probabilities by definition: each processor in turn sets what it removes to minus infinity
// and the next takes a softmax of what is left. Of equals the lower ids are kept.
std::vector<double> plain(const Logits& logits, const SamplingOptions& o, const Ids& seen) {
  std::vector<double> x(logits.begin(), logits.end());
  for (std::size_t i = 0; i < x.size(); ++i)
    if (std::find(seen.begin(), seen.end(), static_cast<text::TokenId>(i)) != seen.end())
      x[i] = x[i] < 0 ? x[i] * o.repetition_penalty : x[i] / o.repetition_penalty;
  for (double& v : x) v /= o.temperature;
  const double none = -std::numeric_limits<double>::infinity();
  std::vector<std::size_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return x[a] > x[b]; });
  const auto softmax = [&] {
    std::vector<double> p;
    for (const double v : x) p.push_back(std::exp(v - x[order[0]]));
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& v : p) v /= sum;
    return p;
  };
  if (o.top_k > 0)
    for (std::size_t r = static_cast<std::size_t>(o.top_k); r < x.size(); ++r) x[order[r]] = none;
  std::vector<double> p = softmax();
  double before = 0;
  if (o.top_p < 1)
    for (const std::size_t i : order) {
      if (before >= o.top_p) x[i] = none;
      before += p[i];
    }
  p = softmax();
  for (std::size_t i = 0; i < x.size(); ++i)
    if (p[i] < o.min_p * p[order[0]]) x[i] = none;
  return softmax();
}

std::vector<int> draw(const Logits& logits, const SamplingOptions& o, int n, const Ids& seen = {}) {
  std::vector<int> counts(logits.size());
  for (int i = 0; i < n; ++i) ++counts[static_cast<std::size_t>(sample(logits, o, seen, i))];
  return counts;
}

// Counts of n draws by groups of `group` ids, each a binomial variable: five deviations and one
// count, as few expected draws are not normal. What has no probability is never drawn.
void expect_counts(const Logits& logits, const SamplingOptions& o, int n, const Ids& seen = {},
                   std::size_t group = 1) {
  const std::vector<double> p = plain(logits, o, seen);
  const std::vector<int> counts = draw(logits, o, n, seen);
  for (std::size_t i = 0; i < p.size(); i += group) {
    double expected = 0;
    int count = 0;
    for (std::size_t j = i; j < std::min(i + group, p.size()); ++j) {
      expected += p[j];
      count += counts[j];
      if (p[j] == 0) {
        EXPECT_EQ(counts[j], 0) << j;
      }
    }
    EXPECT_NEAR(count, n * expected, 5 * std::sqrt(n * expected * (1 - expected)) + 1) << i;
  }
}

Logits logs(std::vector<double> p) {
  Logits out;
  for (const double v : p) out.push_back(static_cast<float>(std::log(v)));
  return out;
}

// About normal, of standard deviation `s`.
Logits random_logits(std::size_t n, double s) {
  Random random{11};
  Logits out(n);
  for (float& v : out) {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += random.uniform();
    v = static_cast<float>(s * sum);
  }
  return out;
}

TEST(Sample, FollowsTheDistribution) {
  const Logits logits = logs({0.3, 0.5, 0.05, 0.15});
  expect_counts(logits, {.temperature = 1, .seed = 3}, 10'000);
  expect_counts(logits, {.temperature = 0.5, .top_k = 2, .seed = 3}, 10'000);
  // Half the temperature squares the odds: 0.25 to 0.09.
  EXPECT_NEAR(draw(logits, {.temperature = 0.5, .top_k = 2, .seed = 3}, 10'000)[1],
              10'000 * 0.25 / 0.34, 5 * std::sqrt(10'000 * 0.25 * 0.09) / 0.34);
}

// Longer than the blocks in which a row is weighed and the parts in which it is sorted.
TEST(Sample, FollowsTheDistributionOfALongRow) {
  const Logits logits = random_logits(5000, 1.5);
  for (const SamplingOptions& o :
       {SamplingOptions{.temperature = 1}, SamplingOptions{.temperature = 0.7, .top_p = 0.9},
        SamplingOptions{.temperature = 1.3, .top_k = 700},
        SamplingOptions{.temperature = 1, .min_p = 0.02},
        SamplingOptions{.temperature = 1, .top_k = 900, .top_p = 0.8, .min_p = 0.05}})
    expect_counts(logits, o, 4000, {}, 100);
}

std::vector<std::size_t> drawn(const Logits& logits, const SamplingOptions& o) {
  std::vector<std::size_t> ids;
  const auto counts = draw(logits, o, 1000);
  for (std::size_t i = 0; i < counts.size(); ++i)
    if (counts[i] > 0) ids.push_back(i);
  return ids;
}

TEST(Sample, KeepsWhatTheCutsSay) {
  using ::testing::ElementsAre;
  const Logits logits = logs({0.15, 0.5, 0.3, 0.05});
  // The fewest tokens that reach 0.7 are two; 0.4 needs one.
  EXPECT_THAT(drawn(logits, {.temperature = 1, .top_p = 0.7}), ElementsAre(1, 2));
  EXPECT_THAT(drawn(logits, {.temperature = 1, .top_p = 0.4}), ElementsAre(1));
  EXPECT_THAT(drawn(logits, {.temperature = 1, .top_p = 1e-9}), ElementsAre(1));
  EXPECT_THAT(drawn(logits, {.temperature = 1, .top_k = 1}), ElementsAre(1));
  EXPECT_THAT(drawn(logits, {.temperature = 1, .min_p = 1}), ElementsAre(1));
  // 0.25 of 0.5 is between 0.05 and 0.15.
  EXPECT_THAT(drawn(logits, {.temperature = 1, .min_p = 0.25}), ElementsAre(0, 1, 2));
  // After temperature 1/2 the ratios are squared: 0.3 is 0.36 and 0.15 is 0.09 of the largest.
  EXPECT_THAT(drawn(logits, {.temperature = 0.5, .min_p = 0.25}), ElementsAre(1, 2));
  // top_p counts from what top_k left: of 0.5 and 0.3 the first is 0.625.
  EXPECT_THAT(drawn(logits, {.temperature = 1, .top_k = 2, .top_p = 0.6}), ElementsAre(1));
  EXPECT_THAT(drawn(logits, {.temperature = 1, .top_p = 0.6}), ElementsAre(1, 2));
  // min_p comes after top_p: 0.5 does not reach 0.62. Of 0.5 and 0.3 alone it would, with 0.625.
  EXPECT_THAT(drawn(logits, {.temperature = 1, .top_p = 0.62, .min_p = 0.55}), ElementsAre(1, 2));
  EXPECT_THAT(drawn(logits, {.temperature = 1e-300}), ElementsAre(1));
}

TEST(Sample, OfEqualsTheLowerIdsRemain) {
  const Logits flat(4000, 2.5f);
  for (int step = 0; step < 200; ++step)
    EXPECT_LT(sample(flat, {.temperature = 1, .top_k = 700}, {}, step), 700);
  expect_counts(flat, {.temperature = 1, .top_p = 0.5}, 1000, {}, 100);
  expect_counts(flat, {.temperature = 1, .min_p = 1}, 1000, {}, 100);
  EXPECT_EQ(sample(flat, {}, {}, 0), 0);
  Logits zeros(50, -0.0f);
  zeros[7] = 0.0f;  // equal to the others
  EXPECT_EQ(sample(zeros, {}, {}, 0), 0);
  const Logits negative{-3, -1, -2, -1};
  EXPECT_EQ(sample(negative, {}, {}, 0), 1);
}

TEST(Sample, PenalisesRepetition) {
  const Logits logits{2, 1.5f, -0.5f, -1};
  const SamplingOptions greedy{.repetition_penalty = 2};
  EXPECT_EQ(sample(logits, greedy, {}, 0), 0);
  EXPECT_EQ(sample(logits, greedy, Ids{0}, 0), 1);           // 1 < 1.5
  EXPECT_EQ(sample(logits, greedy, Ids{0, 1, 1, 1}, 0), 0);  // 1 and, once, 0.75
  const Logits below{-1, -1.5f};
  EXPECT_EQ(sample(below, greedy, Ids{0}, 0), 1);                       // -2 < -1.5
  EXPECT_EQ(sample(below, {.repetition_penalty = 0.5}, Ids{1}, 0), 1);  // a reward: -0.75
  expect_counts(logits, {.repetition_penalty = 1.7, .temperature = 0.8}, 10'000, {0, 3, 0});
  expect_counts(logits, {.repetition_penalty = 1.7, .temperature = 0.8, .min_p = 0.3}, 10'000, {0});
  for (int step = 0; step < 200; ++step)
    EXPECT_EQ(sample(logits, {.repetition_penalty = 1, .temperature = 1}, Ids{0, 3}, step),
              sample(logits, {.temperature = 1}, {}, step));
  EXPECT_THROW(sample(logits, greedy, Ids{4}, 0), Error);
  EXPECT_THROW(sample(logits, greedy, Ids{-1}, 0), Error);
}

// Where a row lies in a batch says nothing.
TEST(Sample, DependsOnItsArgumentsAlone) {
  const Logits logits = random_logits(3001, 2);
  for (std::size_t offset = 0; offset < 9; ++offset) {
    Logits batch(offset, 99.0f);
    batch.insert(batch.end(), logits.begin(), logits.end());
    batch.resize(batch.size() + 5, 99.0f);
    const auto row = std::span(batch).subspan(offset, logits.size());
    for (int step = 0; step < 20; ++step)
      for (const SamplingOptions& o :
           {SamplingOptions{.temperature = 1, .seed = 5},
            SamplingOptions{.temperature = 1, .top_k = 40, .top_p = 0.9, .seed = 5}})
        EXPECT_EQ(sample(row, o, {}, step), sample(logits, o, {}, step));
  }
  EXPECT_NE(draw(logits, {.temperature = 1, .seed = 5}, 20),
            draw(logits, {.temperature = 1, .seed = 6}, 20));
}

TEST(Sample, RefusesLogitsThatAreNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), -std::nanf(""), infinity, -infinity})
    for (const double temperature : {0.0, 1.0}) {
      Logits logits(2000, 1.0f);
      logits[1500] = bad;
      EXPECT_THROW(sample(logits, {.temperature = temperature}, {}, 0), Error) << bad;
      EXPECT_THROW(log_probs(logits, 0, 0), Error) << bad;
    }
  EXPECT_THROW(sample(Logits{}, {}, {}, 0), Error);
  const float most = std::numeric_limits<float>::max();
  EXPECT_EQ(sample(Logits{-most, most}, {.temperature = 1}, {}, 0), 1);
}

TEST(LogProbs, AreTheLogSoftmax) {
  // Adding a constant to logits changes no probability.
  Logits logits = logs({0.3, 0.5, 0.05, 0.15});
  for (float& x : logits) x += 3;
  const LogProbs got = log_probs(logits, 2, 3);
  EXPECT_EQ(got.chosen.id, 2);
  EXPECT_NEAR(got.chosen.log_prob, std::log(0.05), 1e-6);
  ASSERT_EQ(got.likeliest.size(), 3u);
  const double p[] = {0.5, 0.3, 0.15};
  const text::TokenId ids[] = {1, 0, 3};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(got.likeliest[i].id, ids[i]);
    EXPECT_NEAR(got.likeliest[i].log_prob, std::log(p[i]), 1e-6);
  }
  EXPECT_TRUE(log_probs(logits, 0, 0).likeliest.empty());
  EXPECT_THROW(log_probs(logits, 4, 0), Error);
  EXPECT_THROW(log_probs(logits, -1, 0), Error);
  EXPECT_THROW(log_probs(logits, 0, 5), Error);
  EXPECT_THROW(log_probs(logits, 0, -1), Error);
}

TEST(LogProbs, OfALongRowWithTies) {
  Logits logits = random_logits(5000, 3);
  for (const std::size_t i : {4321u, 17u, 2048u}) logits[i] = 30;
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x));
  const LogProbs got = log_probs(logits, 77, 5000);
  EXPECT_NEAR(got.chosen.log_prob, logits[77] - std::log(sum), 1e-6);
  std::vector<text::TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto of = [&](text::TokenId i) { return logits[static_cast<std::size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return of(a) > of(b); });
  for (std::size_t i = 0; i < order.size(); ++i) {
    EXPECT_EQ(got.likeliest[i].id, order[i]);
    EXPECT_NEAR(got.likeliest[i].log_prob, of(order[i]) - std::log(sum), 1e-6);
  }
  const LogProbs three = log_probs(logits, 77, 3);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(three.likeliest[i].id, order[i]);
}

TEST(Validate, NamesTheOption) {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::pair<SamplingOptions, const char*> bad[] = {
      {{.max_tokens = -1}, "max_tokens"},
      {{.repetition_penalty = 0}, "repetition_penalty"},
      {{.repetition_penalty = infinity}, "repetition_penalty"},
      {{.temperature = -0.1}, "temperature"},
      {{.temperature = std::nan("")}, "temperature"},
      {{.temperature = infinity}, "temperature"},
      {{.top_k = -1}, "top_k"},
      {{.top_p = 0}, "top_p"},
      {{.top_p = 1.01}, "top_p"},
      {{.min_p = -0.01}, "min_p"},
      {{.min_p = 1.01}, "min_p"},
      {{.stop_tokens = {3, 10}}, "stop_tokens"},
      {{.stop_tokens = {-1}}, "stop_tokens"},
      {{.stop = {"a", ""}}, "stop"},
  };
  for (const auto& each : bad) try {
      validate(each.first, 10);
      ADD_FAILURE() << each.second;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), ::testing::HasSubstr(std::string("] ") + each.second + ":"));
    }
  validate({}, 10);
  validate({.temperature = 2, .top_k = 1, .top_p = 1, .min_p = 1, .stop_tokens = {9}}, 10);
}

}  // namespace
}  // namespace qad::generate
