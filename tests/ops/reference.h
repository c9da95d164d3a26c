// The operators as textbook formulas on double tensors, differentiable by PyTorch's own autograd,
// and the comparison with FP32 results.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "ops/head_loss.h"
#include "ops/mamba.h"

namespace qad::ops::reference {

using at::Tensor;

inline const bool kSeeded = (at::manual_seed(1), true);  // PyTorch's own seed is the clock's

inline Tensor random(at::IntArrayRef shape, double scale = 1) {
  return at::randn(shape, at::kFloat).mul(scale);
}
inline Tensor leaf(const Tensor& t) {
  return t.detach().clone().requires_grad_();
}
inline Tensor double_leaf(const Tensor& t) {
  return t.detach().to(at::kDouble).requires_grad_();
}

// `roundings`: how many roundings of FP32 an element may have seen one after another, each half an
// ulp (6e-8) of intermediate values as large as the largest element. Random signs make the real
// error the square root of that; the bound is for the worst. `least`: the size of intermediate
// values where the results are smaller.
inline void expect_near(const Tensor& actual, const Tensor& expected, double roundings,
                        const std::string& what, double least = 1e-3) {
  ASSERT_TRUE(actual.defined() && expected.defined()) << what;
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  if (actual.numel() == 0) return;
  const Tensor e = expected.detach().to(at::kDouble), a = actual.detach().to(at::kDouble);
  ASSERT_TRUE(a.isfinite().all().item<bool>()) << what;
  const double scale = std::max(least, e.abs().max().item<double>());
  EXPECT_LE((a - e).abs().max().item<double>(), roundings * 6e-8 * scale) << what;
}

inline void expect_same(const Tensor& a, const Tensor& b, const std::string& what) {
  EXPECT_TRUE(at::equal(a, b)) << what;
}

inline Tensor rms_norm(const Tensor& x, const Tensor& w, double eps) {
  return w * x / (x.square().mean(-1, true) + eps).sqrt();
}

inline Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions,
                   std::int64_t rotated) {
  const std::int64_t half = x.size(2) / 2;
  const Tensor c = cos.index_select(0, positions).unsqueeze(1);
  const Tensor s = sin.index_select(0, positions).unsqueeze(1);
  const Tensor a = x.narrow(1, 0, rotated).narrow(2, 0, half);
  const Tensor b = x.narrow(1, 0, rotated).narrow(2, half, half);
  const Tensor turned = at::cat({a * c - b * s, b * c + a * s}, 2);
  return at::cat({turned, x.narrow(1, rotated, x.size(1) - rotated)}, 1);
}

inline Tensor swiglu(const Tensor& gate_up) {
  const auto halves = gate_up.chunk(2, 1);
  return halves[0] * halves[0].sigmoid() * halves[1];
}

inline Tensor attention(const Tensor& qkv, const std::vector<std::int32_t>& starts,
                        std::int64_t heads, std::int64_t kv_heads, double scale) {
  std::vector<Tensor> out;
  for (std::size_t i = 0; i + 1 < starts.size(); ++i) {
    const std::int64_t n = starts[i + 1] - starts[i];
    const Tensor doc = qkv.narrow(0, starts[i], n).transpose(0, 1);  // [heads, n, D]
    const auto expanded = [&](std::int64_t first) {
      return doc.narrow(0, first, kv_heads).repeat_interleave(heads / kv_heads, 0);
    };
    const Tensor k = expanded(heads), v = expanded(heads + kv_heads);
    const Tensor future = at::ones({n, n}, at::kBool).triu(1);
    const Tensor s = at::matmul(doc.narrow(0, 0, heads), k.transpose(1, 2)) * scale;
    const Tensor p = s.masked_fill(future, -INFINITY).softmax(-1);
    out.push_back(at::matmul(p, v).transpose(0, 1).reshape({n, heads * qkv.size(2)}));
  }
  return at::cat(out);
}

// silu(sum of taps + bias), document by document: weight [C, 1, K].
inline Tensor causal_conv(const Tensor& x, const Tensor& weight, const Tensor& bias,
                          const std::vector<std::int32_t>& starts) {
  const std::int64_t taps = weight.size(2);
  std::vector<Tensor> out;
  for (std::size_t i = 0; i + 1 < starts.size(); ++i) {
    const std::int64_t n = starts[i + 1] - starts[i];
    const Tensor before = at::zeros({taps - 1, x.size(1)}, x.options());
    const Tensor padded = at::cat({before, x.narrow(0, starts[i], n)});
    Tensor sum = at::zeros({n, x.size(1)}, x.options());
    for (std::int64_t k = 0; k < taps; ++k)
      sum = sum + padded.narrow(0, k, n) * weight.select(2, k).squeeze(1);
    if (bias.defined()) sum = sum + bias;
    out.push_back(sum * sum.sigmoid());
  }
  return at::cat(out);
}

// The recurrence, token after token. xbc [T, heads dim + 2 groups state].
inline Tensor mamba_scan(const Tensor& xbc, const Tensor& dt, const ScanParameters& p,
                         const std::vector<std::int32_t>& starts, const ScanShape& shape) {
  const std::int64_t heads = dt.size(1), dim = shape.head_dim, groups = shape.groups;
  const std::int64_t state = (xbc.size(1) - heads * dim) / (2 * groups);
  const auto parts = xbc.split_with_sizes({heads * dim, groups * state, groups * state}, 1);
  const Tensor x = parts[0].reshape({-1, heads, dim});
  const auto of_heads = [&](const Tensor& t) {
    return t.reshape({-1, groups, state}).repeat_interleave(heads / groups, 1);
  };
  const Tensor b = of_heads(parts[1]), c = of_heads(parts[2]);
  const Tensor step = at::softplus(dt + p.dt_bias).clamp(shape.least_step, shape.most_step);
  const Tensor decay = (step * -p.a_log.exp()).exp();
  std::vector<Tensor> y;
  for (std::size_t i = 0; i + 1 < starts.size(); ++i) {
    Tensor s = at::zeros({heads, dim, state}, xbc.options());
    for (std::int64_t t = starts[i]; t < starts[i + 1]; ++t) {
      const Tensor u = x[t] * step[t].unsqueeze(1);
      s = decay[t].view({heads, 1, 1}) * s + u.unsqueeze(2) * b[t].unsqueeze(1);
      const Tensor read = (s * c[t].unsqueeze(1)).sum(2) + p.d.unsqueeze(1) * x[t];
      y.push_back(read.reshape({1, heads * dim}));
    }
  }
  return at::cat(y);
}

inline Tensor gated_rms_norm(const Tensor& y, const Tensor& z, const Tensor& weight,
                             std::int64_t groups, double eps) {
  const Tensor n = (y * z * z.sigmoid()).reshape({y.size(0), groups, -1});
  const Tensor scaled = n / (n.square().mean(-1, true) + eps).sqrt();
  return weight * scaled.reshape(y.sizes());
}

// Everything of HeadOutputs, from double logits that exist whole.
inline HeadOutputs head_loss(const HeadInputs& in, const LossWeights& w) {
  const Tensor s = at::mm(in.student_hidden, in.student_weight.t());
  const Tensor kept = in.weights.ne(0).to(at::kDouble);
  const Tensor label = in.labels.clamp_min(0).unsqueeze(1);
  const auto entropy = [&](const Tensor& logits) {
    return logits.log_softmax(-1).gather(1, label).squeeze(1).neg();
  };
  const auto kl = [](const Tensor& a, const Tensor& b) { return (a.exp() * (a - b)).sum(-1); };
  HeadOutputs out;
  out.ce = entropy(s).detach() * kept;
  Tensor loss = entropy(s) * w.cross_entropy;
  if (in.teacher_hidden.defined()) {
    const Tensor t = at::mm(in.teacher_hidden, in.teacher_weight.t());
    out.kl = kl(t.log_softmax(-1), s.log_softmax(-1)).detach() * kept;
    out.teacher_ce = entropy(t).detach() * kept;
    out.agree = s.argmax(-1).eq(t.argmax(-1)).to(at::kDouble) * kept;
    const double tau = w.temperature;
    const Tensor q = (s / tau).log_softmax(-1), p = (t / tau).log_softmax(-1);
    const Tensor m = at::logaddexp(q, p) - std::log(2.0);
    const Tensor divergence = kl(p, q) * w.forward_kl + kl(q, p) * w.reverse_kl +
                              (kl(p, m) + kl(q, m)) * (0.5 * w.jensen_shannon);
    loss = loss + divergence * (tau * tau) + (s - t).square().mean(-1) * w.mse;
  }
  out.loss = (loss * in.weights).sum();
  return out;
}

}  // namespace qad::ops::reference
