// Drawing one token from a row of logits. What remains after top-k, top-p or min-p is the beginning
// of the row in descending order, so only that beginning is ever sorted; where nothing is cut the
// row is not copied. Weights are probabilities relative to the largest: FP32 exponentials (2 ulp)
// over the whole row, FP64 for single tokens; all sums are FP64.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "generate/generate.h"
#include "ops/simd.h"

namespace qad::generate {
namespace {

using text::TokenId;

// The largest logit. In integers of the same order, which the compiler vectorises as it may not
// floating-point maxima.
float finite_max(std::span<const float> logits) {
  check(!logits.empty(), "generate", "logits: expected at least one");
  std::int32_t key = std::numeric_limits<std::int32_t>::min();
  std::int32_t exponent = 0;  // the largest, of infinity and NaN 0x7F800000
  for (const float x : logits) {
    const auto bits = std::bit_cast<std::int32_t>(x);
    key = std::max(key, bits ^ ((bits >> 31) & 0x7FFFFFFF));
    exponent = std::max(exponent, bits & 0x7F800000);
  }
  if (exponent == 0x7F800000) {
    const auto bad =
        std::find_if_not(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); });
    fail("generate", "logits: expected finite numbers, found {} at id {}", *bad,
         bad - logits.begin());
  }
  return std::bit_cast<float>(key ^ ((key >> 31) & 0x7FFFFFFF));
}

struct Row {
  std::span<const float> logits;
  float largest = 0;
  double temperature = 1;

  // e^((logit - largest) / temperature), in (0, 1]
  double weight(float logit) const {
    return std::exp((static_cast<double>(logit) - largest) / temperature);
  }
};

// Whole rows are weighed by blocks, so that a draw need not keep V weights: it finds its block by
// the blocks' sums and weighs that one again.
constexpr std::size_t kBlock = 1024;
using Block = std::array<float, kBlock>;

// The weights of block `b` and their sum.
double weigh(const Row& row, std::size_t b, Block& weights) {
  namespace hn = ops::hn;
  const ops::FloatTag d;
  const auto logits = row.logits.subspan(b * kBlock);
  const auto n = static_cast<std::int64_t>(std::min(kBlock, logits.size()));
  // A factor that stays finite: below 1e-30 only equals of the largest keep any weight anyway.
  const auto scale = hn::Set(d, static_cast<float>(1 / std::max(row.temperature, 1e-30)));
  const auto largest = hn::Set(d, row.largest);
  weights.fill(0);
  ops::for_lanes(d, n, [&](std::int64_t i, std::int64_t lanes) {
    const auto x = hn::Sub(ops::load(d, logits.data() + i, lanes), largest);
    ops::store(d, ops::exp(d, hn::Mul(x, scale)), weights.data() + i, lanes);
  });
  std::array<double, 8> sums{};
  for (std::size_t i = 0; i < kBlock; i += sums.size())
    for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += weights[i + j];
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

std::vector<double> block_sums(const Row& row) {
  Block weights;
  std::vector<double> sums((row.logits.size() + kBlock - 1) / kBlock);
  for (std::size_t b = 0; b < sums.size(); ++b) sums[b] = weigh(row, b, weights);
  return sums;
}

template <class T>
double total(const T& weights) {
  double sum = 0;
  for (const auto w : weights) sum += static_cast<double>(w);
  return sum;
}

// The first whose weights, with all before it, exceed `left`, which loses those before it. Where
// rounding leaves a crumb, the last of any weight.
template <class T>
std::size_t pick(const T& weights, double& left) {
  std::size_t last = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto w = static_cast<double>(weights[i]);
    if (w == 0) continue;
    last = i;
    if (left < w) break;
    left -= w;
  }
  return last;
}

TokenId draw(const Row& row, double uniform) {
  const std::vector<double> sums = block_sums(row);
  double left = uniform * total(sums);
  const std::size_t b = pick(sums, left);
  Block weights;
  weigh(row, b, weights);
  return static_cast<TokenId>(b * kBlock + pick(weights, left));
}

struct Candidate {
  float logit;
  TokenId id;
};
bool likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The k likeliest, 0 < k <= V, descending. A buffer of twice as many is halved when full, which
// raises the bar: most of a row is only compared with it. An equal of the bar comes later, so its
// id is the higher one.
std::vector<Candidate> likeliest(std::span<const float> logits, std::size_t k) {
  std::vector<Candidate> best;
  best.reserve(std::min(2 * k, logits.size()));
  const auto keep_k = [&] {
    std::nth_element(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(k - 1), best.end(),
                     likelier);
    best.resize(k);
  };
  float bar = -std::numeric_limits<float>::infinity();
  constexpr std::size_t kRun = 64;  // compared as one, in vectors
  for (std::size_t begin = 0; begin < logits.size(); begin += kRun) {
    const auto run = logits.subspan(begin, std::min(kRun, logits.size() - begin));
    int above = 0;
    for (const float x : run) above |= x > bar;
    if (above == 0) continue;
    for (std::size_t i = begin; i < begin + run.size(); ++i) {
      if (!(logits[i] > bar)) continue;
      best.push_back({logits[i], static_cast<TokenId>(i)});
      if (best.size() < 2 * k) continue;
      keep_k();
      bar = best.back().logit;
    }
  }
  if (best.size() > k) keep_k();
  std::sort(best.begin(), best.end(), likelier);
  return best;
}

// What top_k, top_p and min_p leave, descending, with weights[i] that of candidate i. At least one.
std::vector<Candidate> cut(const Row& row, const SamplingOptions& o, std::vector<double>& weights) {
  const std::size_t n = o.top_k > 0 ? std::min(row.logits.size(), static_cast<std::size_t>(o.top_k))
                                    : row.logits.size();
  const bool all = n == row.logits.size();
  // Without top_k few of the row are likely to remain: sort more only when they are not enough.
  constexpr std::size_t kFirst = 256;
  double reach = std::numeric_limits<double>::infinity();  // the mass that top_p asks for
  if (all && o.top_p < 1) reach = o.top_p * total(block_sums(row));
  for (std::size_t k = all ? std::min(n, kFirst) : n;; k = std::min(n, 8 * k)) {
    std::vector<Candidate> best = likeliest(row.logits, k);
    weights.clear();
    for (const Candidate& c : best) weights.push_back(row.weight(c.logit));
    if (!all && o.top_p < 1) reach = o.top_p * total(weights);
    double mass = 0;
    std::size_t kept = 0;
    for (; kept < k && mass < reach && weights[kept] >= o.min_p; ++kept) mass += weights[kept];
    if (kept == k && k < n) continue;
    best.resize(kept);
    weights.resize(kept);
    return best;
  }
}

}  // namespace

void validate(const SamplingOptions& o, std::int64_t vocabulary) {
  const auto limit = [](bool ok, const char* name, const char* expected, const auto& found) {
    check(ok, "generate", "{}: expected {}, found {}", name, expected, found);
  };
  limit(o.max_tokens >= 0, "max_tokens", "0 or more", o.max_tokens);
  limit(o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty), "repetition_penalty",
        "a number above 0", o.repetition_penalty);
  limit(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", "a number from 0",
        o.temperature);
  limit(o.top_k >= 0, "top_k", "0 (all) or more", o.top_k);
  limit(o.top_p > 0 && o.top_p <= 1, "top_p", "a number above 0 and up to 1", o.top_p);
  limit(o.min_p >= 0 && o.min_p <= 1, "min_p", "a number from 0 to 1", o.min_p);
  for (const TokenId id : o.stop_tokens)
    check(id >= 0 && id < vocabulary, "generate", "stop_tokens: expected ids below {}, found {}",
          vocabulary, id);
  for (const std::string& s : o.stop)
    check(!s.empty(), "generate", "stop: expected strings of at least one character, found \"\"");
}

Json to_json(const SamplingOptions& o) {
  return {{"max_tokens", o.max_tokens},
          {"temperature", o.temperature},
          {"top_k", o.top_k},
          {"top_p", o.top_p},
          {"min_p", o.min_p},
          {"repetition_penalty", o.repetition_penalty},
          {"seed", o.seed},
          {"stop", o.stop},
          {"stop_tokens", o.stop_tokens}};
}

std::uint64_t sample_seed(std::uint64_t seed, std::int64_t index, std::int64_t sample) {
  return random_bits(random_bits(seed, static_cast<std::uint64_t>(index)),
                     static_cast<std::uint64_t>(sample));
}

TokenId sample(std::span<const float> logits, const SamplingOptions& o,
               std::span<const TokenId> seen, std::int64_t step) {
  std::vector<float> penalised;
  if (o.repetition_penalty != 1 && !seen.empty()) {
    penalised.assign(logits.begin(), logits.end());
    const auto penalty = static_cast<float>(o.repetition_penalty);
    for (const TokenId id : seen) {
      const auto i = static_cast<std::size_t>(id);
      check(id >= 0 && i < logits.size(), "generate", "seen: expected ids below {}, found {}",
            logits.size(), id);
      penalised[i] = logits[i] < 0 ? logits[i] * penalty : logits[i] / penalty;
    }
    logits = penalised;
  }
  const Row row{logits, finite_max(logits), o.temperature};
  if (o.temperature == 0)
    return static_cast<TokenId>(std::find(logits.begin(), logits.end(), row.largest) -
                                logits.begin());
  const double uniform = Random{o.seed, static_cast<std::uint64_t>(step)}.uniform();
  const bool cuts_k = o.top_k > 0 && static_cast<std::size_t>(o.top_k) < logits.size();
  if (!cuts_k && o.top_p >= 1 && o.min_p == 0) return draw(row, uniform);
  std::vector<double> weights;
  const std::vector<Candidate> from = cut(row, o, weights);
  double left = uniform * total(weights);
  return from[pick(weights, left)].id;
}

LogProbs log_probs(std::span<const float> logits, TokenId chosen, std::int64_t n) {
  const auto size = static_cast<std::int64_t>(logits.size());
  check(chosen >= 0 && chosen < size, "generate", "logprobs: expected an id below {}, found {}",
        size, chosen);
  check(n >= 0 && n <= size, "generate", "logprobs: expected 0 to {} likeliest tokens, found {}",
        size, n);
  const Row row{logits, finite_max(logits), 1};
  const double normalizer = row.largest + std::log(total(block_sums(row)));
  LogProbs out{{chosen, logits[static_cast<std::size_t>(chosen)] - normalizer}, {}};
  if (n > 0)
    for (const Candidate& c : likeliest(logits, static_cast<std::size_t>(n)))
      out.likeliest.push_back({c.id, c.logit - normalizer});
  return out;
}

}  // namespace qad::generate
