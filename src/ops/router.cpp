// Which experts a token goes to, and with which weights; and the order of rows that follows.
#include <ATen/ops/zeros.h>

#include <cmath>

#include "ops/autograd.h"
#include "ops/experts.h"
#include "ops/grouped_rows.h"
#include "ops/product.h"

namespace qad::ops {
namespace {

using at::Tensor;

constexpr float kTiny = 1e-20f;  // beside the sum of the chosen scores, as the models have it

struct Choice {
  std::int64_t experts, top_k, groups, top_groups;
};

// The best of `n` by value that `open` allows, the first of equal ones; a NaN never wins over what
// came before. Something is open.
std::int64_t best_of(const float* value, const char* open, std::int64_t n) {
  std::int64_t best = -1;
  for (std::int64_t i = 0; i < n; ++i)
    if (open[i] && (best < 0 || value[i] > value[best])) best = i;
  return best;
}

// Leaves open the experts of the best groups.
void limit_groups(const Choice& c, const float* value, std::vector<char>& open) {
  const std::int64_t size = c.experts / c.groups;
  std::vector<float> sums;
  for (std::int64_t g = 0; g < c.groups; ++g) {
    float first = -INFINITY, second = -INFINITY;
    for (std::int64_t e = g * size; e < (g + 1) * size; ++e) {
      second = std::max(second, std::min(first, value[e]));
      first = std::max(first, value[e]);
    }
    sums.push_back(first + second);
  }
  std::vector<char> left(static_cast<std::size_t>(c.groups), 1);
  std::fill(open.begin(), open.end(), 0);
  for (std::int64_t i = 0; i < c.top_groups; ++i) {
    const std::int64_t g = best_of(sums.data(), left.data(), c.groups);
    left[static_cast<std::size_t>(g)] = 0;
    std::fill_n(open.begin() + g * size, size, 1);
  }
}

void sigmoid_of(const float* logits, std::vector<float>& scores) {
  for (float& score : scores) score = 1 / (1 + std::exp(-*logits++));
}

void softmax_of(const float* logits, std::vector<float>& scores) {
  const float largest = *std::max_element(logits, logits + scores.size());
  float sum = 0;
  for (float& score : scores) sum += score = std::exp(*logits++ - largest);
  for (float& score : scores) score /= sum;
}

std::tuple<Tensor, Tensor, Tensor> router_cpu(const Tensor& x, const Tensor& weight,
                                              const std::optional<Tensor>& bias, std::int64_t top_k,
                                              std::int64_t groups, std::int64_t top_groups,
                                              bool normalize, double scale, bool softmax) {
  check_floats(x, 2, "router", "x");
  check_floats(weight, 2, "router", "weight");
  if (bias) check_floats(*bias, 1, "router", "bias");
  const std::int64_t tokens = x.size(0), experts = weight.size(0);
  check_size(x.size(1), weight.size(1), "router", "columns of x");
  if (bias) check_size(bias->size(0), experts, "router", "size of bias");
  check(groups >= 1 && experts % groups == 0 && (groups == 1 || experts / groups >= 2) &&
            top_groups >= 1 && top_groups <= groups && top_k >= 1 &&
            top_k <= experts / groups * top_groups,
        "router",
        "expected {} experts in equal groups of two or more that leave enough to choose from, "
        "found {} of {} groups and top {}",
        experts, top_groups, groups, top_k);
  const Choice choice{experts, top_k, groups, top_groups};
  const Tensor logits = product(x, weight.t()),
               correction = bias ? bias->contiguous() : at::zeros({experts}, x.options());
  Tensor weights = at::empty({tokens, top_k}, x.options()), scores = at::empty_like(weights);
  Tensor chosen = at::empty({tokens, top_k}, x.options().dtype(at::kInt));
  const float *logit = logits.const_data_ptr<float>(), *b = correction.const_data_ptr<float>();
  float *w = weights.data_ptr<float>(), *s = scores.data_ptr<float>();
  auto* to = chosen.data_ptr<std::int32_t>();
  parallel_for(0, tokens, row_grain(experts * top_k), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> score(static_cast<std::size_t>(experts)), value(score);
    std::vector<char> open(score.size());
    for (std::int64_t t = begin; t < end; ++t) {
      softmax ? softmax_of(logit + t * experts, score) : sigmoid_of(logit + t * experts, score);
      for (std::size_t e = 0; e < score.size(); ++e) {
        value[e] = score[e] + b[e];
        open[e] = 1;
      }
      if (groups > 1) limit_groups(choice, value.data(), open);
      float sum = kTiny;
      for (std::int64_t j = t * top_k; j < (t + 1) * top_k; ++j) {
        const std::int64_t e = best_of(value.data(), open.data(), experts);
        open[static_cast<std::size_t>(e)] = 0;
        to[j] = static_cast<std::int32_t>(e);
        s[j] = score[static_cast<std::size_t>(e)];
        sum += s[j];
      }
      const float factor = static_cast<float>(scale) / (normalize ? sum : 1);
      for (std::int64_t j = t * top_k; j < (t + 1) * top_k; ++j) w[j] = s[j] * factor;
    }
  });
  return {weights, chosen, scores};
}

// With w = c s / S, S the sum of the chosen: ds = c (g - sum(g s) / S) / S; of a sigmoid then
// d logit = ds s (1 - s), of a softmax, also of those that were not chosen, s (ds - sum(ds s)).
std::tuple<Tensor, Tensor> router_backward_cpu(const Tensor& grad, const Tensor& x,
                                               const Tensor& weight, const Tensor& experts,
                                               const Tensor& scores, bool normalize, double scale,
                                               bool softmax) {
  const Tensor gw = grad.contiguous();
  const std::int64_t tokens = x.size(0), count = weight.size(0), top_k = experts.size(1);
  const Tensor logits = at::zeros({tokens, count}, x.options());
  const Tensor all = softmax ? product(x, weight.t()) : Tensor();
  std::vector<float> score(static_cast<std::size_t>(count));
  const float *g = gw.const_data_ptr<float>(), *s = scores.const_data_ptr<float>();
  const auto* e = experts.const_data_ptr<std::int32_t>();
  float* d = logits.data_ptr<float>();
  const auto c = static_cast<float>(scale);
  for (std::int64_t t = 0; t < tokens; ++t) {
    float sum = kTiny, along = 0;
    for (std::int64_t j = t * top_k; j < (t + 1) * top_k; ++j) {
      sum += s[j];
      along += g[j] * s[j];
    }
    float mean = 0;
    for (std::int64_t j = t * top_k; j < (t + 1) * top_k; ++j) {
      const float ds = normalize ? c * (g[j] - along / sum) / sum : c * g[j];
      d[t * count + e[j]] = softmax ? ds * s[j] : ds * s[j] * (1 - s[j]);
      mean += ds * s[j];
    }
    if (!softmax) continue;
    softmax_of(all.const_data_ptr<float>() + t * count, score);
    for (std::int64_t i = 0; i < count; ++i)
      d[t * count + i] -= score[static_cast<std::size_t>(i)] * mean;
  }
  return {product(logits, weight), product(logits.t(), x)};
}

// A counting sort: rows of an expert stay in the order of their tokens.
std::tuple<Tensor, Tensor, Tensor> sort_by_expert_cpu(const Tensor& experts, std::int64_t count) {
  check_tensor(experts, at::kInt, 2, "sort_by_expert", "experts");
  const Tensor of = experts.contiguous();
  const std::int64_t n = of.numel();
  check(n < INT32_MAX, "sort_by_expert", "expected fewer than 2^31 rows, found {}", n);
  Tensor rows = at::empty_like(of), choices = at::empty({n}, of.options());
  Tensor offsets = at::zeros({count + 1}, of.options());
  const auto* e = of.const_data_ptr<std::int32_t>();
  auto *row = rows.data_ptr<std::int32_t>(), *choice = choices.data_ptr<std::int32_t>();
  auto* offset = offsets.data_ptr<std::int32_t>();
  for (std::int64_t i = 0; i < n; ++i) {
    check(e[i] >= 0 && e[i] < count, "sort_by_expert", "expected experts 0 to {}, found {}",
          count - 1, e[i]);
    ++offset[e[i] + 1];
  }
  for (std::int64_t i = 0; i < count; ++i) offset[i + 1] += offset[i];
  std::vector<std::int32_t> next(offset, offset + count);
  for (std::int64_t i = 0; i < n; ++i) {
    row[i] = next[static_cast<std::size_t>(e[i])]++;
    choice[row[i]] = static_cast<std::int32_t>(i);
  }
  return {rows, choices, offsets};
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def(
      "router(Tensor x, Tensor weight, Tensor? bias, int top_k, int groups, int top_groups, "
      "bool normalize, float scale, bool softmax) -> (Tensor weights, Tensor experts, Tensor "
      "scores)");
  m.def(
      "router_backward(Tensor grad, Tensor x, Tensor weight, Tensor experts, Tensor scores, "
      "bool normalize, float scale, bool softmax) -> (Tensor dx, Tensor dweight)");
  m.def(
      "sort_by_expert(Tensor experts, int count) -> (Tensor rows, Tensor choices, Tensor offsets)");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("router", router_cpu);
  m.impl("router_backward", router_backward_cpu);
  m.impl("sort_by_expert", sort_by_expert_cpu);
}

}  // namespace

Routes route(const Tensor& x, const Tensor& weight, const Tensor& bias, const RouterConfig& c) {
  static const auto op = find_op<decltype(router_cpu)>("qad::router");
  auto [weights, experts, scores] =
      call_kernel(op, x, weight, bias.defined() ? std::optional(bias) : std::nullopt, c.top_k,
                  c.groups, c.top_groups, c.normalize, c.scale, c.softmax);
  if (recording({&x, &weight}))
    record("router", weights, {x, weight}, {x, weight, experts, scores},
           [normalize = c.normalize, scale = c.scale, softmax = c.softmax](const Tensor& grad,
                                                                           Tensors s) -> Tensors {
             static const auto op = find_op<decltype(router_backward_cpu)>("qad::router_backward");
             auto [dx, dweight] =
                 call_kernel(op, grad, s[0], s[1], s[2], s[3], normalize, scale, softmax);
             return {dx, dweight};
           });
  return {experts, weights};
}

ExpertOrder sort_by_expert(const Tensor& experts, std::int64_t count) {
  static const auto op = find_op<decltype(sort_by_expert_cpu)>("qad::sort_by_expert");
  auto [rows, choices, offsets] = call_kernel(op, experts, count);
  return {rows, choices, offsets};
}

}  // namespace qad::ops
