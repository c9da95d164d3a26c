// The endless stream of sequences, without state: which source the k-th draw takes and how many
// draws that source had before are computed, not counted.
//
// Draw k lands at frac(start + k * golden) of the unit interval, where sources own stretches as
// long as their shares (a Weyl sequence: even, never periodic here). In units of 2^-32 the draws
// before k that landed below a bound b are a sum of floors, which Euclid's algorithm gives in
// O(log k). Within a source an epoch's shuffle is a Feistel permutation of its indices.
#include <algorithm>
#include <bit>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "data/batch_builder.h"

namespace qad::data {

namespace {

constexpr std::uint64_t kOne = std::uint64_t{1} << 32;
constexpr std::uint64_t kGolden = 0x9E3779B9;  // 2^32 / golden ratio, odd

// Sum over i < n of floor((a i + b) / 2^32), modulo 2^64.
std::uint64_t floor_sum(std::uint64_t n, std::uint64_t a, std::uint64_t b) {
  std::uint64_t m = kOne, sum = 0;
  for (;;) {
    sum += n * (n - 1) / 2 * (a / m) + n * (b / m);
    a %= m;
    b %= m;
    const std::uint64_t y = a * n + b;
    if (y < m) return sum;
    n = y / m;
    b = y % m;
    std::swap(m, a);
  }
}

// How many i < k have (kGolden i + start) mod 2^32 below `bound` <= 2^32: floor(x) - floor(x -
// bound) is 1 there and 0 elsewhere, in units of 2^32.
std::int64_t draws_below(std::uint64_t k, std::uint64_t start, std::uint64_t bound) {
  if (k == 0) return 0;
  // x - bound + 2^32 stays positive and raises each floor by one.
  return static_cast<std::int64_t>(floor_sum(k, kGolden, start) + k -
                                   floor_sum(k, kGolden, start + kOne - bound));
}

// The image of `index` under a permutation of [0, size) chosen by `key`: six Feistel rounds over
// the next even number of bits, walked until inside.
std::uint64_t permute(std::uint64_t index, std::uint64_t size, std::uint64_t key) {
  const int half = (static_cast<int>(std::bit_width(size - 1)) + 1) / 2;
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  do {
    std::uint64_t left = index >> half, right = index & mask;
    for (std::uint64_t round = 0; round < 6; ++round) {
      const std::uint64_t next = left ^ (random_bits(key + round, right) & mask);
      left = right;
      right = next;
    }
    index = left << half | right;
  } while (index >= size);
  return index;
}

}  // namespace

Stream::Stream(std::vector<Source> sources, std::uint64_t seed)
    : sources_(std::move(sources)), seed_(seed) {
  double total = 0;
  for (std::size_t s = 0; s < sources_.size(); ++s) {
    check(!sources_[s].sequences.empty(), "stream", "data set {} has no sequences", s + 1);
    check(std::isfinite(sources_[s].weight) && sources_[s].weight > 0, "stream",
          "expected the weight of data set {} to be positive, found {}", s + 1, sources_[s].weight);
    total += sources_[s].weight;
  }
  check(!sources_.empty(), "stream", "there is no data set");
  double sum = 0;
  for (const Source& source : sources_) {
    sum += source.weight;
    bounds_.push_back(static_cast<std::uint64_t>(std::llround(sum / total * double(kOne))));
  }
  bounds_.back() = kOne;
}

Stream::Draw Stream::draw(std::int64_t k) const {
  check(k >= 0 && k < (std::int64_t{1} << 31), "stream", "draw {} is out of range", k);
  const std::uint64_t n = static_cast<std::uint64_t>(k), start = mix64(seed_) & (kOne - 1);
  const std::uint64_t at = (kGolden * n + start) & (kOne - 1);
  const auto s = static_cast<std::size_t>(std::upper_bound(bounds_.begin(), bounds_.end(), at) -
                                          bounds_.begin());
  const std::int64_t before =
      draws_below(n, start, bounds_[s]) - (s == 0 ? 0 : draws_below(n, start, bounds_[s - 1]));
  const std::uint64_t size = sources_[s].sequences.size();
  const std::uint64_t epoch = static_cast<std::uint64_t>(before) / size;
  const std::uint64_t key = random_bits(random_bits(seed_, s), epoch);
  return {s,
          static_cast<std::size_t>(permute(static_cast<std::uint64_t>(before) % size, size, key))};
}

Batch Stream::batch(std::int64_t first_draw, std::int64_t sequences) const {
  BatchBuilder builder;
  for (std::int64_t k = first_draw; k < first_draw + sequences; ++k) {
    const Draw d = draw(k);
    std::size_t first_document = 0;
    for (std::size_t s = 0; s < d.source; ++s) first_document += sources_[s].documents.size();
    builder.add(sources_[d.source].documents, sources_[d.source].sequences[d.sequence],
                static_cast<std::int64_t>(first_document));
  }
  return builder.finish();
}

std::int64_t token_count(const Source& source) {
  std::int64_t tokens = 0;
  for (const Sequence& sequence : source.sequences)
    for (const Piece& piece : sequence) tokens += piece.length;
  return tokens;
}

std::uint64_t Stream::fingerprint() const {
  std::uint64_t h = seed_;
  const auto add = [&h](auto value) { h = random_bits(h, static_cast<std::uint64_t>(value)); };
  for (std::size_t s = 0; s < sources_.size(); ++s) {
    add(bounds_[s]);
    for (const Document& d : sources_[s].documents) {
      add(d.ids.size());
      for (std::size_t i = 0; i < d.ids.size(); ++i) add(2 * std::int64_t{d.ids[i]} + d.counts[i]);
    }
    for (const Sequence& sequence : sources_[s].sequences) {
      add(sequence.size());
      for (const Piece& p : sequence) {
        add(p.document);
        add(p.begin);
        add(p.length);
      }
    }
  }
  return h;
}

}  // namespace qad::data
