// Cases of attention: documents of one token, of odd lengths, longer than a block of any kernel;
// grouped heads; head sizes on either side of what flash attention takes.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "cuda/harness.h"

namespace qad::cuda::test {
namespace {

using at::Tensor;

struct Shape {
  std::vector<std::int32_t> lengths;
  std::int64_t heads, kv_heads, dim;
};
std::vector<Shape> shapes() {
  return sizes<Shape>({{{1}, 1, 1, 8},
                       {{1, 1, 1}, 4, 2, 64},
                       {{5, 1, 64, 33}, 4, 2, 8},
                       {{7, 130, 20}, 14, 2, 64},
                       {{100, 3}, 3, 3, 20},
                       {{65, 66}, 4, 1, 80},
                       {{300}, 2, 2, 96},
                       {{17, 140}, 8, 4, 128},
                       {{40, 90}, 2, 1, 256}},
                      {{{1}, 1, 1, 8}, {{5, 1, 64, 33}, 4, 2, 8}, {{40, 3}, 3, 3, 20}});
}

Tensor starts(const Shape& s) {
  std::vector<std::int32_t> at = {0};
  for (const std::int32_t n : s.lengths) at.push_back(at.back() + n);
  return at::tensor(at, at::kInt);
}

// Not to the token: an upper bound will do.
std::int64_t longest(const Shape& s) {
  return *std::max_element(s.lengths.begin(), s.lengths.end()) + 3;
}

}  // namespace

std::vector<Case> attention_cases() {
  constexpr double kLog2E = 1.4426950408889634;
  std::vector<Case> cases;
  for (const Shape& s : shapes())
    for (const bool starts_on_cpu : {false, true}) {
      const std::int64_t tokens = starts(s)[-1].item<std::int32_t>();
      const double scale = 1 / std::sqrt(static_cast<double>(s.dim));
      const auto qkv = [=] { return random({tokens, s.heads + 2 * s.kv_heads, s.dim}); };
      const auto where = [=] { return starts_on_cpu ? on_cpu(starts(s)) : fixed(starts(s)); };
      const std::string shape = std::to_string(tokens) + " tokens, " + std::to_string(s.heads) +
                                "/" + std::to_string(s.kv_heads) + " heads of " +
                                std::to_string(s.dim) + (starts_on_cpu ? ", starts on CPU" : "");
      // Scores sum over dim, results over the document. In BF16 the probabilities are rounded.
      const double terms = static_cast<double>(s.dim + tokens) + 32;
      cases.push_back({"attention " + shape,
                       "qad::attention",
                       [=] {
                         return std::vector<Argument>{values(qkv()), where(),      {longest(s)},
                                                      {s.heads},     {s.kv_heads}, {scale}};
                       },
                       {{terms, 1}, {terms}},
                       {1, 1 / kLog2E}});  // the CPU's lse has base 2
    }
  return cases;
}

}  // namespace qad::cuda::test
