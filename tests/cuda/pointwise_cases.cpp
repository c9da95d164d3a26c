// Cases of embedding, linear, norm, rotary embedding and SwiGLU: widths that fill 16 bytes and ones
// that do not, no rows, one row, more rows than blocks.
#include <ATen/ATen.h>

#include "cuda/harness.h"

namespace qad::cuda::test {
namespace {

using at::Tensor;

std::string label(const char* op, std::initializer_list<std::int64_t> shape) {
  std::string name = op;
  for (const std::int64_t n : shape) name += " " + std::to_string(n);
  return name;
}

using Rows = std::pair<std::int64_t, std::int64_t>;
std::vector<Rows> row_sizes() {
  return sizes<Rows>({{0, 64},
                      {1, 8},
                      {3, 7},
                      {5, 33},
                      {17, 896},
                      {1100, 64},
                      {600, 36},
                      {2, 12000},
                      {9, 4864},
                      {2300, 576},
                      {70, 1536},
                      {600, 3584},
                      {3, 20000}},
                     {{3, 7}, {5, 33}, {17, 896}, {70, 36}, {2, 12000}, {2300, 64}, {3, 20000}});
}

void add_norm(std::vector<Case>& cases) {
  for (const auto& [rows, cols] : row_sizes()) {
    if (rows == 0) continue;
    // Sums of squares and of products run over `cols` terms in 32 or more partial sums.
    const double terms = static_cast<double>(cols) / 32 + 40;
    for (const bool more : {false, true}) {
      const auto perhaps = [=] {
        return more ? values(random({rows, cols})) : Argument{at::IValue()};
      };
      // In BF16 the sum is rounded, and that before it is squared.
      cases.push_back({label(more ? "rms_norm of a sum" : "rms_norm", {rows, cols}),
                       "qad::rms_norm",
                       [=] {
                         return std::vector<Argument>{values(random({rows, cols})),
                                                      perhaps(),
                                                      values(random({cols})),
                                                      {1e-6},
                                                      {1.0},
                                                      {std::int64_t{0}},
                                                      {at::IValue()}};
                       },
                       {{}, {terms, more ? 2.0 : 0.0}, {terms, more ? 1.0 : 0.0}}});
      // The weight's gradient sums over rows; inverse is FP32 in both.
      cases.push_back(
          {label(more ? "rms_norm_backward beside a gradient" : "rms_norm_backward", {rows, cols}),
           "qad::rms_norm_backward",
           [=] {
             const Tensor x = random({rows, cols});
             return std::vector<Argument>{values(random({rows, cols})), perhaps(), values(x),
                                          values(random({cols})),
                                          fixed((x.square().mean(1) + 1e-6).rsqrt())};
           },
           {{terms}, {static_cast<double>(rows) + 16}}});
    }
  }
}

void add_elementwise(std::vector<Case>& cases) {
  for (const auto& [rows, cols] : row_sizes()) {
    // exp to 2 ulp on either side, the sum, the division, two products
    cases.push_back(
        {label("swiglu", {rows, cols}),
         "qad::swiglu",
         [=] {
           return std::vector<Argument>{
               values(random({rows, 2 * cols}, 3)), {1.0}, {std::int64_t{0}}, {at::IValue()}};
         },
         {{16}}});
    cases.push_back({label("swiglu_backward", {rows, cols}),
                     "qad::swiglu_backward",
                     [=] {
                       return std::vector<Argument>{values(random({rows, cols})),
                                                    values(random({rows, 2 * cols}, 3))};
                     },
                     {{24}}});
    const auto ids = [=] { return fixed(at::randint(0, 50, {rows}, at::kLong)); };
    cases.push_back({label("embedding", {rows, cols}),
                     "qad::embedding",
                     [=] {
                       return std::vector<Argument>{values(random({50, cols})), ids()};
                     },
                     {{}}});
    cases.push_back(
        {label("embedding_backward", {rows, cols}),
         "qad::embedding_backward",
         [=] {
           return std::vector<Argument>{values(random({rows, cols})), ids(), {std::int64_t{50}}};
         },
         {{}}});
    cases.push_back({label("embedding_backward_", {rows, cols}),
                     "qad::embedding_backward_",
                     [=] {
                       return std::vector<Argument>{changed(at::randn({50, cols})),
                                                    values(random({rows, cols})), ids()};
                     },
                     {}});
  }
}

void add_rope(std::vector<Case>& cases) {
  struct Shape {
    std::int64_t tokens, heads, dim, rotated;
  };
  for (const Shape& s : {Shape{1, 1, 2, 1},
                         {5, 6, 8, 4},
                         {33, 18, 64, 16},
                         {7, 3, 20, 3},
                         {4, 40, 128, 36},
                         {3, 2, 256, 0}})
    for (const bool backward : {false, true})
      cases.push_back({label(backward ? "rope backward" : "rope", {s.tokens, s.heads, s.dim}),
                       "qad::rope",
                       [=] {
                         const Tensor angle = at::rand({40, s.dim / 2}).mul(6);
                         return std::vector<Argument>{
                             values(random({s.tokens, s.heads, s.dim})),
                             fixed(angle.cos()),
                             fixed(angle.sin()),
                             fixed(at::randint(0, 40, {s.tokens}, at::kLong)),
                             {s.rotated},
                             {backward}};
                       },
                       {{}}});
}

void add_linear(std::vector<Case>& cases) {
  struct Shape {
    std::int64_t tokens, in, out;
  };
  for (const Shape& s : sizes<Shape>({{1, 8, 8},
                                      {3, 7, 5},
                                      {33, 64, 100},
                                      {70, 896, 1152},
                                      {16, 4864, 9},
                                      {1, 576, 960},
                                      {8, 1536, 576},
                                      {9, 40, 33},
                                      {17, 64, 64}},
                                     {{3, 7, 5}, {9, 40, 33}}))
    for (const bool bias : {false, true})
      cases.push_back({label(bias ? "linear with bias" : "linear", {s.tokens, s.in, s.out}),
                       "qad::linear",
                       [=] {
                         return std::vector<Argument>{
                             values(random({s.tokens, s.in})), values(random({s.out, s.in})),
                             bias ? values(random({s.out})) : Argument{at::IValue()}};
                       },
                       {{static_cast<double>(s.in) + 2}}});
}

// Global scales are powers of two, so that BF16 holds the weights. Shapes: columns for each number
// of reads on their way, rows of one part and several, more of them than the kernel takes, columns
// that it does not take.
void add_linear_packed(std::vector<Case>& cases) {
  struct Shape {
    std::int64_t tokens, in;
    std::vector<std::int64_t> ends;
  };
  for (const Shape& s : sizes<Shape>({{1, 32, {8}},
                                      {1, 576, {576, 768, 960}},
                                      {8, 1536, {577}},
                                      {5, 896, {896, 1024, 1152}},
                                      {9, 2048, {33, 70}},
                                      {16, 4864, {9}},
                                      {33, 64, {64, 96, 97, 200}},
                                      {64, 4096, {40}},
                                      {65, 64, {64, 100}},
                                      {3, 48, {7, 20}},
                                      {2, 64, {5, 9, 12, 20, 31}}},
                                     {{9, 96, {5, 20}}, {65, 64, {5, 20}}, {3, 48, {7}}}))
    for (const bool bias : {false, true})
      cases.push_back({label("linear_packed", {s.tokens, s.in, s.ends.back()}),
                       "qad::linear_packed",
                       [=] {
                         const std::int64_t rows = s.ends.back();
                         c10::List<std::int64_t> ends;
                         c10::List<double> globals;
                         for (const std::int64_t end : s.ends) {
                           ends.push_back(end);
                           globals.push_back(
                               std::ldexp(1.0, -3 - static_cast<int>(globals.size())));
                         }
                         return std::vector<Argument>{
                             values(random({s.tokens, s.in})),
                             fixed(at::randint(0, 256, {rows, s.in / 2}, at::kByte)),
                             fixed(at::randint(0x20, 0x40, {rows, s.in / 16}, at::kByte)),
                             {ends},
                             {globals},
                             bias ? values(random({rows})) : Argument{at::IValue()}};
                       },
                       {{static_cast<double>(s.in) + 2}}});
}

}  // namespace

std::vector<Case> pointwise_cases() {
  std::vector<Case> cases;
  add_norm(cases);
  add_elementwise(cases);
  add_rope(cases);
  add_linear(cases);
  add_linear_packed(cases);
  return cases;
}

}  // namespace qad::cuda::test
