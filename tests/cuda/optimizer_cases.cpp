// Cases of the optimiser's operators: what they return and what they change in place, equal to the
// bit. Sizes on either side of a block of moments and of an access; every kind of masters, of
// moments, of block rule and of what becomes of the global scale.
#include <ATen/ATen.h>

#include <cmath>

#include "cuda/harness.h"
#include "ops/adamw.h"

namespace qad::cuda::test {
namespace {

using at::Tensor;

// A million: more than an H200 takes at once.
std::vector<std::int64_t> element_counts() {
  return sizes<std::int64_t>({0, 1, 3, 4, 129, 255, 256, 257, 1031, 100000, 1000003},
                             {0, 3, 257, 1031, 500003});
}
const char* const kKinds[] = {"FP32", "BF16", "8-bit"};

Argument scalar(double x) {
  return fixed(at::scalar_tensor(x, at::kFloat));
}

// Moments as three steps on the CPU leave them.
std::vector<Argument> moments(int kind, std::int64_t n) {
  const Tensor master = random({n});
  Tensor m = at::zeros({n}, kind == 1 ? at::kBFloat16 : at::kFloat), v = at::zeros_like(m);
  ops::Moment8 m8 = ops::zero_moment8(master), v8 = ops::zero_moment8(master);
  for (int step = 1; step <= 3; ++step) {
    const ops::AdamW a{1e-3, 0.9, 0.95, 1e-8, 0, step, 9};
    // Magnitudes over many binades, so that 8-bit blocks have small values, too.
    const Tensor grad = random({n}) * at::rand({n}).mul(-24).exp2();
    if (kind == 2)
      ops::adamw_(a, master, grad, m8, v8);
    else
      ops::adamw_(a, master, grad, m, v);
  }
  if (kind < 2) return {changed(m), changed(v)};
  return {changed(m8.codes), changed(m8.scales), changed(v8.codes), changed(v8.scales)};
}

// FP32, or its halves, among them some that are half way between two BF16 numbers.
std::vector<Argument> master(bool split, std::int64_t n) {
  const Tensor fp32 = at::randn({n});
  fp32.view(at::kInt).slice(0, 0, n, 5).bitwise_and_(-0x10000).bitwise_or_(0x8000);
  if (!split) return {changed(fp32), Argument{at::IValue()}};
  const ops::Master halves = ops::split_master(fp32);
  return {changed(halves.high), changed(halves.low)};
}

void add_adamw(std::vector<Case>& cases, bool split) {
  for (const int kind : {0, 1, 2})
    for (const std::int64_t n : element_counts())
      for (const char* factor : sizes<const char*>({"none", "0.37", "NaN"}, {"0.37"})) {
        const auto arguments = [=] {
          std::vector<Argument> all = master(split, n);
          const Tensor grad = random({n}) * at::rand({n}).mul(-16).exp2();
          all.push_back(values(grad.to(at::kBFloat16).to(at::kFloat)));
          for (const Argument& a : moments(kind, n)) all.push_back(a);
          all.push_back(factor[0] == 'n' ? Argument{at::IValue()} : scalar(std::atof(factor)));
          for (const double x : {1e-3, 0.9, 0.95, 1e-8, 0.1}) all.push_back({x});
          all.push_back({std::int64_t{4}});
          all.push_back({std::int64_t{-77}});
          return all;
        };
        // amax, master and the moments
        std::vector<Tolerance> outputs((split ? 3 : 2) + (kind == 2 ? 4 : 2));
        cases.push_back({std::string(split ? "adamw_, split master, " : "adamw_ ") + kKinds[kind] +
                             ", factor " + factor + ", " + std::to_string(n),
                         kind == 2 ? "qad::adamw8_" : "qad::adamw_", arguments, outputs});
      }
}

void add_ship(std::vector<Case>& cases, bool split) {
  using Shape = std::pair<std::int64_t, std::int64_t>;
  const auto shapes = sizes<Shape>({{1, 1},
                                    {1, 16},
                                    {3, 7},
                                    {5, 24},
                                    {7, 40},
                                    {4, 896},
                                    {64, 4864},
                                    {2, 100},
                                    {0, 32},
                                    {33, 512},
                                    {16, 16}},
                                   {{3, 7}, {7, 40}, {33, 512}});
  struct Start {
    const char* name;
    double global;  // times what the weight demands
    bool given;
  };
  const auto starts = sizes<Start>({{"chosen", 0, true},
                                    {"chosen, amax unknown", 0, false},
                                    {"raised", 0.25, true},
                                    {"raised, amax unknown", 0.25, false},
                                    {"kept", 4, true},
                                    {"kept, amax unknown", 4, false}},
                                   {{"raised, amax unknown", 0.25, false}});
  for (const std::int64_t rule : {0, 1, 2})
    for (const std::int64_t global_rule : {0, 1})
      for (const double scale : sizes<double>({0.02, 1e-37, 1e30}, {0.02}))
        for (const Start& s : starts)
          for (const auto& [rows, cols] : shapes) {
            const auto arguments = [=, rows = rows, cols = cols] {
              const Tensor master =
                  at::randn({rows, cols}) * at::rand({rows, cols}).mul(-12).exp2() * scale;
              const Tensor from = split ? ops::split_master(master).high : master;
              const Tensor rounded = from.to(at::kBFloat16).to(at::kFloat).abs();
              const double amax = master.numel() == 0 ? 0 : rounded.max().item<double>();
              const double needed =
                  std::max(0x1p-116, std::exp2(std::ceil(std::log2(std::max(amax, 1e-44) / 2688))));
              Argument value = values(at::zeros({rows, cols}));
              value.changes = true;
              return std::vector<Argument>{
                  fixed(from),
                  value,
                  changed(at::scalar_tensor(
                      std::max(s.global == 0 ? 0 : 0x1p-116, s.global * needed), at::kFloat)),
                  s.given ? scalar(amax) : Argument{at::IValue()},
                  {rule},
                  {global_rule}};
            };
            cases.push_back({std::string(split ? "ship_ of a high half " : "ship_ ") + s.name +
                                 " rule " + std::to_string(rule) + "/" +
                                 std::to_string(global_rule) + " scale " +
                                 std::to_string(std::log10(scale)) + " of " + std::to_string(rows) +
                                 " " + std::to_string(cols),
                             "qad::ship_",
                             arguments,
                             {{}, {}, {}}});
          }
}

// Under block scales of every kind: what suits the values, what clips them, what flattens them.
void add_ship_with_scales(std::vector<Case>& cases, bool split) {
  using Shape = std::pair<std::int64_t, std::int64_t>;
  for (const auto& [rows, cols] : sizes<Shape>(
           {{1, 1}, {1, 16}, {3, 7}, {7, 40}, {64, 4864}, {0, 32}, {33, 512}}, {{3, 7}, {33, 512}}))
    for (const bool given : {true, false}) {
      const auto arguments = [=, rows = rows, cols = cols] {
        const Tensor master = at::randn({rows, cols}) * at::rand({rows, cols}).mul(-12).exp2();
        const Tensor from = split ? ops::split_master(master).high : master;
        const Tensor rounded = from.to(at::kBFloat16).to(at::kFloat).abs();
        const double amax = master.numel() == 0 ? 0 : rounded.max().item<double>();
        Argument value = values(at::zeros({rows, cols}));
        value.changes = true;
        return std::vector<Argument>{
            fixed(from), value, scalar(0x1p-9),
            fixed(at::randint(1, 0x7F, {rows, (cols + 15) / 16}).to(at::kByte)),
            given ? scalar(amax) : Argument{at::IValue()}};
      };
      cases.push_back(
          {std::string(split ? "ship_with_scales_ of a high half" : "ship_with_scales_") +
               (given ? "" : ", amax unknown") + " of " + std::to_string(rows) + " " +
               std::to_string(cols),
           "qad::ship_with_scales_",
           arguments,
           {{}, {}}});
    }
}

void add_norm(std::vector<Case>& cases) {
  for (const int tensors : sizes<int>({1, 2, 161, 400}, {1, 161})) {
    const auto arguments = [=] {
      std::vector<Tensor> grads;
      for (int i = 0; i < tensors; ++i)
        grads.push_back(random({i % 7 == 3 ? 40000 + i : 13 * i % 5000}, std::exp2(i % 9)));
      return std::vector<Argument>{values(grads)};
    };
    // Sums of up to 2^21 squares in FP64, in two orders: far below one rounding of FP32.
    cases.push_back(
        {"gradient_norm of " + std::to_string(tensors), "qad::gradient_norm", arguments, {{1e-3}}});
  }
}

}  // namespace

std::vector<Case> optimizer_cases() {
  std::vector<Case> cases;
  for (const bool split : {false, true}) {
    add_adamw(cases, split);
    add_ship(cases, split);
    add_ship_with_scales(cases, split);
  }
  add_norm(cases);
  return cases;
}

}  // namespace qad::cuda::test
