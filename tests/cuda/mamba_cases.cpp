// Cases of Mamba's convolution, scan and gated norm: documents of one token, of none, cut chunks
// and whole ones, inputs that are columns of a wider matrix, pieces that go on from a slot.
#include <ATen/ATen.h>

#include "cuda/harness.h"

namespace qad::cuda::test {
namespace {

using at::Tensor;
using Lengths = std::vector<std::int32_t>;

Tensor starts_of(const Lengths& lengths) {
  Lengths starts{0};
  for (const std::int32_t n : lengths) starts.push_back(starts.back() + n);
  return at::tensor(starts, at::kInt);
}
std::int64_t sum_of(const Lengths& lengths) {
  std::int64_t sum = 0;
  for (const std::int32_t n : lengths) sum += n;
  return sum;
}
std::int64_t longest_of(const Lengths& lengths) {
  return *std::max_element(lengths.begin(), lengths.end());
}
std::string label(const char* op, const Lengths& lengths, std::int64_t width) {
  return fmt::format("{} of {} tokens in {} documents, {} wide", op, sum_of(lengths),
                     lengths.size(), width);
}

std::vector<Lengths> documents() {
  return sizes<Lengths>({{1}, {5, 1, 0, 3}, {64, 63, 65}, {200, 129, 1}, {700}},
                        {{5, 1, 0, 3}, {65, 129}});
}

// The documents' tokens so far, some of which are here, and a slot for each, not in order.
struct Pieces {
  Tensor lengths, slots;
};
Pieces pieces_of(const Lengths& here) {
  Lengths lengths, slots;
  for (std::size_t i = 0; i < here.size(); ++i) {
    lengths.push_back(here[i] + static_cast<std::int32_t>(i % 3 * 2));  // 0, 2, 4 before
    slots.push_back(static_cast<std::int32_t>(here.size() - i));
  }
  return {at::tensor(lengths, at::kInt), at::tensor(slots, at::kInt)};
}

void add_convolutions(std::vector<Case>& cases) {
  struct Shape {
    std::int64_t channels, taps;
    bool bias;
  };
  for (const Lengths& lengths : documents())
    for (const Shape& s : {Shape{40, 4, true}, {7, 2, false}, {130, 1, true}, {129, 8, false}}) {
      const std::int64_t tokens = sum_of(lengths);
      // Of a sum its products and additions, then what exp, the sum and the division have; the
      // terms of a sum may be larger than it.
      const double roundings = 4 * static_cast<double>(2 * s.taps + 1) + 16;
      const auto operands = [=] {
        return std::vector<Argument>{
            values(random({tokens, s.channels + 3}).narrow(1, 2, s.channels)),
            values(random({s.channels, 1, s.taps})),
            s.bias ? values(random({s.channels})) : Argument{at::IValue()},
            fixed(starts_of(lengths))};
      };
      cases.push_back(
          {label("causal_conv", lengths, s.channels), "qad::causal_conv", operands, {{roundings}}});
      cases.push_back({label("causal_conv_backward", lengths, s.channels),
                       "qad::causal_conv_backward",
                       [=] {
                         auto all = operands();
                         all.insert(all.begin(), values(random({tokens, s.channels})));
                         return all;
                       },
                       // The taps' gradients are sums over tokens, of at most all of their terms.
                       {{4 * roundings},
                        {4 * roundings + static_cast<double>(tokens)},
                        {4 * roundings + static_cast<double>(tokens)}}});
      cases.push_back({label("causal_conv_cached", lengths, s.channels),
                       "qad::causal_conv_cached",
                       [=] {
                         auto all = operands();
                         const Pieces p = pieces_of(lengths);
                         const auto slots = static_cast<std::int64_t>(lengths.size()) + 2;
                         all.insert(all.end(),
                                    {fixed(p.lengths), fixed(p.slots),
                                     changed_values(random({slots, s.taps - 1, s.channels}))});
                         return all;
                       },
                       {{roundings}}});
    }
}

void add_norms(std::vector<Case>& cases) {
  struct Shape {
    std::int64_t rows, cols, groups;
  };
  for (const Shape& s : sizes<Shape>(
           {{1, 8, 1}, {3, 30, 3}, {70, 512, 8}, {1100, 64, 2}, {130, 2048, 8}, {5, 4096, 1}},
           {{3, 30, 3}, {130, 96, 2}})) {
    const double terms = static_cast<double>(s.cols / s.groups) / 8 + 60;
    const std::string shape = fmt::format(" {} {} in {}", s.rows, s.cols, s.groups);
    // y, and z as columns of a wider matrix.
    const auto gated = [=] {
      return std::vector<Argument>{values(random({s.rows, s.cols})),
                                   values(random({s.rows, s.cols + 5}, 2).narrow(1, 1, s.cols)),
                                   values(random({s.cols}))};
    };
    cases.push_back(
        {"gated_rms_norm" + shape,
         "qad::gated_rms_norm",
         [=] {
           auto all = gated();
           all.insert(all.end(), {{s.groups}, {1e-5}, {1.0}, {std::int64_t{0}}, {at::IValue()}});
           return all;
         },
         {{terms}, {terms}}});
    cases.push_back({"gated_rms_norm_backward" + shape,
                     "qad::gated_rms_norm_backward",
                     [=] {
                       auto all = gated();
                       const Tensor y = all[0].value.toTensor(), z = all[1].value.toTensor();
                       const Tensor n = (y * z * z.sigmoid()).view({s.rows, s.groups, -1});
                       all.insert(all.begin(), values(random({s.rows, s.cols})));
                       all.push_back(fixed((n.square().mean(2) + 1e-5).rsqrt()));
                       return all;
                     },
                     {{terms}, {terms}, {terms + static_cast<double>(s.rows)}}});
  }
}

void add_scans(std::vector<Case>& cases) {
  struct Shape {
    std::int64_t heads, dim, groups, state;
    double least, most;
  };
  for (const Lengths& lengths : documents())
    for (const Shape& s : sizes<Shape>({{1, 4, 1, 3, 0, INFINITY},
                                        {4, 16, 2, 32, 0.001, 0.6},
                                        {6, 20, 3, 128, 0, INFINITY},
                                        {8, 64, 2, 128, 0, 1}},
                                       {{4, 16, 2, 32, 0.001, 0.6}, {2, 33, 1, 40, 0, INFINITY}})) {
      const std::int64_t tokens = sum_of(lengths), inner = s.heads * s.dim;
      const std::int64_t columns = inner + 2 * s.groups * s.state;
      // Sums over a state's row, over a chunk's tokens and over chunks, whose terms may be larger
      // than what is left of them; sums over all tokens besides for the parameters.
      const double sums = static_cast<double>(s.state + 2 * s.dim + 64) +
                          static_cast<double>(longest_of(lengths)) / 16;
      const double roundings = 8 * sums + 64,
                   over_all = roundings + 8 * static_cast<double>(tokens);
      // In BF16 factors of products are rounded to TF32, by 2^-11: of three products in a row, six.
      constexpr double tf32 = 6.0 / 8;
      const auto operands = [=] {
        return std::vector<Argument>{
            values(random({tokens, columns + 2}, 0.5).narrow(1, 1, columns)),
            values(random({tokens, s.heads})),
            values(random({s.heads}, 0.5)),
            values(random({s.heads}, 0.5)),
            values(random({s.heads})),
            fixed(starts_of(lengths))};
      };
      const auto with_shape = [=](std::vector<Argument> all) {
        all.insert(all.end(), {{s.dim}, {s.groups}, {s.least}, {s.most}});
        return all;
      };
      cases.push_back({label("mamba_scan", lengths, inner),
                       "qad::mamba_scan",
                       [=] {
                         auto all = operands();
                         all.push_back({longest_of(lengths)});
                         return with_shape(all);
                       },
                       {{roundings, tf32}}});
      cases.push_back({label("mamba_scan_backward", lengths, inner),
                       "qad::mamba_scan_backward",
                       [=] {
                         auto all = operands();
                         all.insert(all.begin(), values(random({tokens, inner})));
                         all.push_back({longest_of(lengths)});
                         return with_shape(all);
                       },
                       {{4 * roundings, 2 * tf32},
                        {4 * roundings, 2 * tf32},
                        {4 * over_all, 4 * tf32},
                        {4 * over_all, 4 * tf32},
                        {over_all}}});
      cases.push_back({label("mamba_scan_cached", lengths, inner),
                       "qad::mamba_scan_cached",
                       [=] {
                         auto all = operands();
                         const Pieces p = pieces_of(lengths);
                         const auto slots = static_cast<std::int64_t>(lengths.size()) + 2;
                         all.insert(all.end(), {fixed(p.lengths), fixed(p.slots),
                                                changed(random({slots, s.heads, s.dim, s.state}))});
                         return with_shape(all);
                       },
                       {{roundings}, {roundings}}});
    }
}

}  // namespace

std::vector<Case> mamba_cases() {
  std::vector<Case> cases;
  add_convolutions(cases);
  add_norms(cases);
  add_scans(cases);
  return cases;
}

}  // namespace qad::cuda::test
