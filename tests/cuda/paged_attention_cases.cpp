// Cases of attention over a paged cache: decoding, chunks of prompts, both at once; contexts below
// and beyond a block's round of keys, and so long beside so few sequences that a context is split;
// grouped heads, as many as a block takes and more; head sizes with and without whole accesses.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "cuda/harness.h"

namespace qad::cuda::test {
namespace {

using at::Tensor;

struct Shape {
  std::vector<std::int32_t> lengths, fresh;
  std::int64_t page, heads, kv_heads, dim;
};
std::vector<Shape> shapes() {
  return sizes<Shape>({{{1}, {1}, 16, 1, 1, 8},
                       {{70, 1, 129, 33}, {1, 1, 1, 1}, 16, 9, 3, 64},
                       {{2000}, {1}, 16, 14, 2, 64},
                       {{600, 1300}, {1, 3}, 4, 8, 8, 128},
                       {{50, 257, 40}, {50, 100, 1}, 16, 4, 2, 80},
                       {{9, 30, 5, 0}, {3, 0, 5, 0}, 1, 6, 2, 5},
                       {{300, 20}, {2, 20}, 32, 24, 2, 64},
                       {{140, 33}, {17, 33}, 16, 11, 1, 128},
                       {{90, 270}, {1, 1}, 16, 4, 2, 256},
                       {{77, 513, 1}, {1, 1, 1}, 16, 8, 1, 128},
                       {{140, 33, 16}, {1, 1, 1}, 4, 22, 2, 64},
                       {{3000}, {1}, 16, 8, 8, 32},
                       {{130}, {64}, 16, 2, 1, 96}},
                      {{{1}, {1}, 16, 1, 1, 8},
                       {{600}, {1}, 16, 3, 1, 8},
                       {{600, 3}, {1, 1}, 16, 3, 1, 64},
                       {{40, 3}, {1, 1}, 16, 11, 1, 128},
                       {{50, 257, 40}, {50, 10, 1}, 16, 4, 2, 20},
                       {{40, 9}, {1, 2}, 4, 11, 1, 16}});
}

Tensor starts(const Shape& s) {
  std::vector<std::int32_t> at = {0};
  for (const std::int32_t n : s.fresh) at.push_back(at.back() + n);
  return at::tensor(at, at::kInt);
}

std::int64_t longest(const std::vector<std::int32_t>& counts) {
  return *std::max_element(counts.begin(), counts.end());
}

std::int64_t pages_each(const Shape& s) {
  return (longest(s.lengths) + s.page - 1) / s.page + 1;
}

// Every sequence has pages of its own, in no order; those it does not need are not there at all.
Tensor pages(const Shape& s) {
  const auto sequences = static_cast<std::int64_t>(s.lengths.size()), each = pages_each(s);
  Tensor table = at::randperm(sequences * each, at::kInt).view({sequences, each});
  for (std::int64_t i = 0; i < sequences; ++i)
    table[i].narrow(0, (s.lengths[i] + s.page - 1) / s.page, 1).fill_(-1);
  return table;
}

// With `codes` the cache holds E4M3 codes, of which a new token's are equal, too.
std::vector<Argument> arguments(const Shape& s, bool codes) {
  const std::int64_t tokens = starts(s)[-1].item<std::int32_t>();
  const auto sequences = static_cast<std::int64_t>(s.lengths.size());
  const auto cache = [&] {
    const std::vector<std::int64_t> shape = {sequences * pages_each(s), s.page, s.kv_heads, s.dim};
    if (!codes) return changed_values(random(shape));
    // Both signs of what is finite and of size 1 or so.
    return changed(
        (at::randint(0, 0x70, shape, at::kLong) + at::randint(0, 2, shape, at::kLong) * 128)
            .to(at::kByte));
  };
  // Upper bounds, not to the token; but that there is no more than one new token has kernels of its
  // own.
  const std::int64_t most_new = longest(s.fresh) == 1 ? 1 : longest(s.fresh) + 1;
  return {values(random({tokens, s.heads + 2 * s.kv_heads, s.dim})),
          cache(),
          cache(),
          fixed(starts(s)),
          fixed(at::tensor(s.lengths, at::kInt)),
          fixed(pages(s)),
          {most_new},
          {longest(s.lengths) + 5},
          {s.heads},
          {s.kv_heads},
          {1 / std::sqrt(static_cast<double>(s.dim))},
          {codes ? 0.013 : 1.0},
          {codes ? 0.011 : 1.0}};
}

}  // namespace

std::vector<Case> paged_attention_cases() {
  std::vector<Case> cases;
  for (const Shape& s : shapes()) {
    const std::string shape =
        std::to_string(s.lengths.size()) + " sequences of up to " +
        std::to_string(longest(s.lengths)) + " tokens, up to " + std::to_string(longest(s.fresh)) +
        " new, " + std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " heads of " +
        std::to_string(s.dim) + ", pages of " + std::to_string(s.page);
    // As attention's, but that nothing is rounded to BF16 between inputs and result. A result may
    // be the small mean of many values; what is summed has size 1. The cache's bits are equal.
    const double terms = static_cast<double>(s.dim + longest(s.lengths)) + 32;
    for (const bool codes : {false, true})
      cases.push_back({(codes ? "paged_attention of codes " : "paged_attention ") + shape,
                       "qad::paged_attention",
                       [=] { return arguments(s, codes); },
                       {{.fp32 = terms, .least = 1}}});
  }
  return cases;
}

}  // namespace qad::cuda::test
