// Cases of a mixture of experts: routes with groups and without, experts without a row, one with
// all, widths that fill 16 bytes and ones that do not, scales of which some are none.
#include <ATen/ATen.h>

#include "cuda/harness.h"

namespace qad::cuda::test {
namespace {

using at::Tensor;

struct Shape {
  std::int64_t tokens, experts, top_k, cols, width;
};
std::vector<Shape> shapes() {
  return sizes<Shape>({{1, 2, 1, 8, 16},
                       {37, 5, 3, 33, 20},
                       {300, 64, 6, 128, 96},
                       {513, 8, 2, 64, 200},
                       {90, 130, 4, 48, 32}},
                      {{37, 5, 3, 33, 20}, {150, 8, 2, 64, 48}});
}
std::string label(const char* op, const Shape& s) {
  return fmt::format("{} of {} tokens, {} of {} experts, {} by {}", op, s.tokens, s.top_k,
                     s.experts, s.cols, s.width);
}

// Different experts for each token; `all`: every token's first choice is expert 0.
Tensor choices(const Shape& s, bool all) {
  Tensor score = at::rand({s.tokens, s.experts});
  if (all) score.select(1, 0).fill_(2);
  return std::get<1>(score.topk(s.top_k, 1)).to(at::kInt).contiguous();
}

struct Order {
  Tensor rows, offsets;
};
Order order_of(const Shape& s, bool all) {
  const Tensor flat = choices(s, all).view(-1), from = flat.argsort(/*stable=*/true, 0, false);
  const Tensor rows = at::empty_like(flat);
  rows.index_put_({from}, at::arange(flat.numel(), at::kInt));
  const Tensor counts = at::bincount(flat, {}, s.experts).cumsum(0);
  return {rows.view({s.tokens, s.top_k}), at::cat({at::zeros({1}, at::kInt), counts.to(at::kInt)})};
}

void add_routers(std::vector<Case>& cases) {
  for (const Shape& s : shapes())
    for (const bool softmax : {false, true})
      for (const std::int64_t groups : {1, 4}) {
        if (groups > 1 && (s.experts % groups != 0 || softmax)) continue;
        const auto args = [=] {
          return std::vector<Argument>{
              values(random({s.tokens, s.cols})),
              values(random({s.experts, s.cols}, 0.2)),
              softmax ? Argument{at::IValue()} : fixed(at::rand({s.experts}).mul(0.1)),
              {s.top_k},
              {groups},
              {std::min<std::int64_t>(groups, 2)},
              {!softmax},
              {2.5},
              {softmax}};
        };
        // A logit's sum in another order, of terms larger than it; exp, the sum, two divisions.
        const double roundings = 8 * static_cast<double>(s.cols) + 40;
        cases.push_back({label(softmax ? "router by softmax" : "router", s) +
                             fmt::format(", {} groups", groups),
                         "qad::router",
                         args,
                         {{roundings}, {}, {roundings}}});
      }
  for (const Shape& s : shapes())
    for (const bool softmax : {false, true})
      for (const bool normalize : {false, true})
        cases.push_back({label("router_backward", s) + fmt::format(" {} {}", softmax, normalize),
                         "qad::router_backward",
                         [=] {
                           return std::vector<Argument>{
                               fixed(at::randn({s.tokens, s.top_k})),
                               values(random({s.tokens, s.cols})),
                               values(random({s.experts, s.cols}, 0.2)),
                               fixed(choices(s, false)),
                               fixed(at::rand({s.tokens, s.top_k}).add(0.1)),
                               {normalize},
                               {2.5},
                               {softmax}};
                         },
                         {{8 * static_cast<double>(s.experts + s.cols) + 100},
                          {8 * static_cast<double>(s.tokens + s.cols) + 100}}});
}

void add_rows(std::vector<Case>& cases) {
  for (const Shape& s : shapes())
    for (const bool all : {false, true}) {
      const std::string end = all ? ", one has all" : "";
      const std::int64_t count = s.tokens * s.top_k;
      cases.push_back({label("sort_by_expert", s) + end,
                       "qad::sort_by_expert",
                       [=] {
                         return std::vector<Argument>{fixed(choices(s, all)), {s.experts}};
                       },
                       {{}, {}, {}}});
      // Of every third expert inputs stay as they are; of others the largest are clipped.
      const auto scales = [=] {
        c10::List<double> globals;
        for (std::int64_t e = 0; e < s.experts; ++e)
          globals.push_back(e % 3 == 2 ? 0.0 : (2.0 + 0.1 * static_cast<double>(e)) / 2688);
        return Argument{globals};
      };
      const auto counters = [=] { return changed(at::zeros({s.experts}, at::kLong)); };
      for (const std::int64_t rule : {0, 1, 2})
        for (const bool quantised : {false, true}) {
          if (!quantised && rule > 0) continue;
          const std::string how = end + fmt::format(" {} {}", rule, quantised);
          cases.push_back({label("gather_rows", s) + how,
                           "qad::gather_rows",
                           [=] {
                             const Order o = order_of(s, all);
                             return std::vector<Argument>{
                                 values(random({s.tokens, s.cols})),
                                 fixed(o.rows),
                                 fixed(o.offsets),
                                 scales(),
                                 {rule},
                                 quantised ? counters() : Argument{at::IValue()}};
                           },
                           {{}}});
        }
      // In BF16 the CPU quantises what it has not rounded.
      cases.push_back({label("relu2", s) + end,
                       "qad::relu2",
                       [=] {
                         const Order o = order_of(s, all);
                         return std::vector<Argument>{values(random({count, s.width})),
                                                      scales(),
                                                      {std::int64_t{0}},
                                                      fixed(o.offsets),
                                                      counters()};
                       },
                       {{}},
                       {},
                       true,
                       false});
      cases.push_back({label("grouped_swiglu", s) + end,
                       "qad::grouped_swiglu",
                       [=] {
                         const Order o = order_of(s, all);
                         return std::vector<Argument>{values(random({count, 2 * s.width}, 3)),
                                                      scales(),
                                                      {std::int64_t{0}},
                                                      fixed(o.offsets),
                                                      {at::IValue()}};
                       },
                       {{16}}});
      for (const bool weighted : {false, true})
        cases.push_back(
            {label("combine_rows", s) + end + (weighted ? " by weights" : ""),
             "qad::combine_rows",
             [=] {
               return std::vector<Argument>{
                   values(random({count, s.cols})),
                   weighted ? fixed(at::rand({s.tokens, s.top_k})) : Argument{at::IValue()},
                   fixed(order_of(s, all).rows),
                   weighted ? values(random({s.tokens, s.cols})) : Argument{at::IValue()}};
             },
             {{static_cast<double>(4 * s.top_k)}}});
      cases.push_back({label("combine_rows_backward", s) + end,
                       "qad::combine_rows_backward",
                       [=] {
                         return std::vector<Argument>{
                             values(random({s.tokens, s.cols})), values(random({count, s.cols})),
                             fixed(at::rand({s.tokens, s.top_k})), fixed(order_of(s, all).rows)};
                       },
                       {{1}, {8 * static_cast<double>(s.cols)}}});
    }
  for (const std::int64_t cols : {1, 7, 64, 1000}) {
    cases.push_back({fmt::format("relu2 of {}", cols),
                     "qad::relu2",
                     [=] {
                       return std::vector<Argument>{values(random({9, cols})),
                                                    Argument{c10::List<double>()},
                                                    {std::int64_t{0}},
                                                    {at::IValue()},
                                                    {at::IValue()}};
                     },
                     {{}}});
    cases.push_back(
        {fmt::format("relu2_backward of {}", cols),
         "qad::relu2_backward",
         [=] {
           return std::vector<Argument>{values(random({9, cols})), values(random({9, cols}))};
         },
         {{}}});
  }
}

void add_products(std::vector<Case>& cases) {
  for (const Shape& s : shapes())
    for (const bool all : {false, true}) {
      const std::int64_t count = s.tokens * s.top_k;
      const auto matrices = [=] {
        std::vector<Tensor> list;
        for (std::int64_t e = 0; e < s.experts; ++e) list.push_back(random({s.width, s.cols}));
        return values(list);
      };
      const std::string end = all ? ", one has all" : "";
      cases.push_back({label("grouped_linear", s) + end,
                       "qad::grouped_linear",
                       [=] {
                         return std::vector<Argument>{values(random({count, s.cols})), matrices(),
                                                      fixed(order_of(s, all).offsets)};
                       },
                       {{static_cast<double>(s.cols) + 2}}});
      // The gradients of all matrices are one result each.
      std::vector<Tolerance> outputs(static_cast<std::size_t>(s.experts) + 1,
                                     {static_cast<double>(count) + 2, 0, 1});
      outputs[0] = {static_cast<double>(s.width) + 2};
      cases.push_back({label("grouped_linear_backward", s) + end, "qad::grouped_linear_backward",
                       [=] {
                         return std::vector<Argument>{values(random({count, s.width})),
                                                      values(random({count, s.cols})),
                                                      matrices(),
                                                      fixed(order_of(s, all).offsets),
                                                      {true},
                                                      {true}};
                       },
                       outputs});
    }
}

}  // namespace

std::vector<Case> expert_cases() {
  std::vector<Case> cases;
  add_routers(cases);
  add_rows(cases);
  return cases;
}

std::vector<Case> expert_product_cases() {
  std::vector<Case> cases;
  add_products(cases);
  return cases;
}

}  // namespace qad::cuda::test
