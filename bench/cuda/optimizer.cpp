// Times the optimiser's operators on one large tensor and on many small ones, where launches are
// what an operator may lose to.
#include "ops/adamw.h"

#include "card.h"
#include "ops/ship.h"

namespace qad::bench {
namespace {

using nvfp4::BlockScale, nvfp4::GlobalScale;

// What one weight of a model has while it is trained.
struct Weight {
  ops::Master master;
  Tensor grad, m, v, value, global, amax;
  ops::Moment8 m8, v8;
};

Weight weight(std::int64_t rows, std::int64_t cols, at::ScalarType moments, bool split) {
  const auto f32 = at::TensorOptions(at::kCUDA).dtype(at::kFloat);
  const Tensor start = at::randn({rows, cols}, f32).mul(0.02).to(at::kBFloat16);
  Weight w;
  w.master = split ? ops::split_master(start) : ops::Master(start.to(at::kFloat));
  w.grad = bf16({rows, cols});
  w.value = at::empty_like(w.grad);
  w.global = at::zeros({}, f32);
  w.amax = start.abs().max().to(at::kFloat);
  if (moments == at::kByte)
    w.m8 = ops::zero_moment8(start), w.v8 = ops::zero_moment8(start);
  else
    w.m = at::zeros({rows, cols}, f32.dtype(moments)), w.v = at::zeros_like(w.m);
  return w;
}

void update(const Weight& w, const Tensor& factor) {
  const ops::AdamW a{1e-5, 0.9, 0.95, 1e-8, 0.01, 10, 1};
  if (w.m8.codes.defined())
    ops::adamw_(a, w.master, w.grad, w.m8, w.v8, factor);
  else
    ops::adamw_(a, w.master, w.grad, w.m, w.v, factor);
}

void ship(const Weight& w, BlockScale rule) {
  ops::ship_(w.master.high, w.value, w.global, w.amax, rule, GlobalScale::pow2);
}

void measure(const Card& card, const char* what, int count, std::int64_t rows, std::int64_t cols) {
  const double n = static_cast<double>(count) * static_cast<double>(rows * cols);
  const Tensor factor = at::ones({}, at::TensorOptions(at::kCUDA).dtype(at::kFloat));
  const auto named = [&](const char* name) { return fmt::format("{} {}", name, what); };
  // Moments, and bytes an element: master read and written, gradient, moments read and written.
  for (const auto& [name, type, bytes, split] :
       {std::tuple("adamw, FP32 moments,", at::kFloat, 26.0, false),
        {"adamw, BF16 moments,", at::kBFloat16, 18.0, false},
        {"adamw, 8-bit moments,", at::kByte, 14.0 + 16.0 / 256, false},
        {"adamw, FP32 moments, split,", at::kFloat, 26.0, true},
        {"adamw, BF16 moments, split,", at::kBFloat16, 18.0, true},
        {"adamw, 8-bit moments, split,", at::kByte, 14.0 + 16.0 / 256, true}}) {
    std::vector<Weight> weights;
    for (int i = 0; i < count; ++i) weights.push_back(weight(rows, cols, type, split));
    line(card, named(name).c_str(), bytes * n, 0, [&] {
      for (const Weight& w : weights) update(w, factor);
    });
    if (type != at::kFloat) continue;
    for (const auto& [rule, rule_name] : {std::pair(BlockScale::max, "ship max,"),
                                          {BlockScale::four_over_six, "ship four_over_six,"},
                                          {BlockScale::mse, "ship mse,"}})
      line(card, named((rule_name + std::string(split ? " split," : "")).c_str()).c_str(),
           (split ? 4 : 6) * n, 0, [&, r = rule] {
             for (const Weight& w : weights) ship(w, r);
           });
    if (split) continue;
    std::vector<Tensor> grads, wide;
    for (const Weight& w : weights) grads.push_back(w.grad), wide.push_back(w.master.high);
    line(card, named("gradient_norm, BF16,").c_str(), 2 * n, 0, [&] { ops::gradient_norm(grads); });
    line(card, named("gradient_norm, FP32,").c_str(), 4 * n, 0, [&] { ops::gradient_norm(wide); });
  }
}

}  // namespace

void optimizer(const Card& card) {
  measure(card, "64M", 1, 8192, 8192);
  measure(card, "200 x 1M", 200, 1024, 1024);
}

}  // namespace qad::bench
