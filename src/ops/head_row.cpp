// The passes over a row of logits. With q = softmax(s / T), p = softmax(t / T), d = log q - log p:
//   forward KL   T^2 sum p (log p - log q)     gradient  T (q - p)
//   reverse KL   T^2 sum q d                   gradient  T q (d - sum q d)
//   Jensen-Shannon  T^2/2 sum (p w + q u)      gradient  T/2 q (u - sum q u)
//     where u = log q - log m = log 2 - log(1 + e^-d) and w = log p - log m = u - d
//   squared error   sum (s - t)^2 / V          gradient  2 (s - t) / V
//   cross-entropy   -log softmax(s)[label]     gradient  softmax(s) - onehot
// Forward KL and cross-entropy at temperature 1, the usual case, keep the exponentials of the pass
// that sums them and need no second evaluation.
#include "ops/head_row.h"

#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>

#include "ops/simd.h"

namespace qad::ops {
namespace {

// Sums run in float over pieces of a row and in double over the pieces: 50 thousand terms in
// float would lose the last digits of a small divergence.
constexpr std::int64_t kPiece = 2048;

template <class F>
void for_pieces(std::int64_t n, F&& f) {
  for (std::int64_t i = 0; i < n; i += kPiece) f(i, std::min(kPiece, n - i));
}

float largest(const float* x, std::int64_t n) {
  const FloatTag d;
  const std::int64_t lanes = hn::Lanes(d);
  auto m0 = hn::Set(d, x[0]), m1 = m0;
  std::int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    m0 = hn::Max(m0, hn::LoadU(d, x + i));
    m1 = hn::Max(m1, hn::LoadU(d, x + i + lanes));
  }
  float m = max(d, hn::Max(m0, m1));
  for (; i < n; ++i) m = std::max(m, x[i]);
  return m;
}

// Softmaxes of both rows at temperature 1 / inverse: student's and teacher's sums of exponentials
// after the maximum is taken off, and their divergence.
struct Softmaxes {
  float student_max, teacher_max;
  double student_sum = 0, teacher_sum = 0, cross = 0;
  bool agree = false;
  double kl() const { return cross / teacher_sum + std::log(student_sum) - std::log(teacher_sum); }
};

// Keep: the exponentials take the logits' place.
template <bool Keep>
void sum_both(float* s, float* t, std::int64_t n, float inverse, Softmaxes& out) {
  const FloatTag d;
  const auto ms = hn::Set(d, out.student_max), mt = hn::Set(d, out.teacher_max);
  const auto factor = hn::Set(d, inverse);
  for_pieces(n, [&](std::int64_t begin, std::int64_t length) {
    auto zs = hn::Zero(d), zt = hn::Zero(d), cross = hn::Zero(d);
    auto gap = hn::Set(d, INFINITY);  // from both maxima; zero where a token has both
    for_lanes(d, length, [&](std::int64_t i, std::int64_t lanes) {
      const auto live = hn::FirstN(d, lanes);
      const auto ds = hn::Sub(load(d, s + begin + i, lanes), ms);
      const auto dt = hn::Sub(load(d, t + begin + i, lanes), mt);
      const auto below = hn::Neg(hn::Min(ds, dt));
      gap = hn::Min(gap, hn::IfThenElse(live, below, gap));
      const auto a = hn::Mul(ds, factor), b = hn::Mul(dt, factor);
      auto es = exp(d, a), et = exp(d, b);
      if (lanes < static_cast<std::int64_t>(hn::Lanes(d))) {
        es = hn::IfThenElseZero(live, es);
        et = hn::IfThenElseZero(live, et);
      }
      zs = hn::Add(zs, es);
      zt = hn::Add(zt, et);
      cross = hn::MulAdd(et, hn::Sub(b, a), cross);
      if constexpr (Keep) {
        store(d, es, s + begin + i, lanes);
        store(d, et, t + begin + i, lanes);
      }
    });
    out.student_sum += sum(d, zs);
    out.teacher_sum += sum(d, zt);
    out.cross += sum(d, cross);
    out.agree = out.agree || hn::GetLane(hn::MinOfLanes(d, gap)) == 0;
  });
}

// Sum of exponentials of one row, which take the logits' place when `keep`.
double sum_one(float* s, std::int64_t n, float shift, bool keep) {
  const FloatTag d;
  const auto m = hn::Set(d, shift);
  double total = 0;
  for_pieces(n, [&](std::int64_t begin, std::int64_t length) {
    auto z = hn::Zero(d);
    for_lanes(d, length, [&](std::int64_t i, std::int64_t lanes) {
      const auto e = hn::IfThenElseZero(hn::FirstN(d, lanes),
                                        exp(d, hn::Sub(load(d, s + begin + i, lanes), m)));
      z = hn::Add(z, e);
      if (keep) store(d, e, s + begin + i, lanes);
    });
    total += sum(d, z);
  });
  return total;
}

// s = a * s - b * t; t null: s = a * s.
void combine(float* s, const float* t, std::int64_t n, double a, double b) {
  const FloatTag d;
  const auto va = hn::Set(d, static_cast<float>(a)), vb = hn::Set(d, static_cast<float>(b));
  for_lanes(d, n, [&](std::int64_t i, std::int64_t lanes) {
    const auto x = hn::Mul(va, load(d, s + i, lanes));
    store(d, t ? hn::NegMulAdd(vb, load(d, t + i, lanes), x) : x, s + i, lanes);
  });
}

// Everything about a token that the general losses need, per vector of the vocabulary.
struct General {
  FloatVec inverse, ms, mt, log_zs, log_zt;
  struct Values {
    FloatVec difference, q, p, d, u;
  };
  HWY_INLINE Values at(const float* s, const float* t, std::int64_t lanes) const {
    const FloatTag d;
    const auto live = hn::FirstN(d, lanes);
    const auto x = load(d, s, lanes), y = load(d, t, lanes);
    const auto a = hn::Sub(hn::Mul(hn::Sub(x, ms), inverse), log_zs);
    const auto b = hn::Sub(hn::Mul(hn::Sub(y, mt), inverse), log_zt);
    Values v;
    v.difference = hn::Sub(x, y);
    v.q = hn::IfThenElseZero(live, exp(d, a));
    v.p = hn::IfThenElseZero(live, exp(d, b));
    v.d = hn::Sub(a, b);
    const auto tail = hn::Log1p(d, exp(d, hn::Neg(hn::Abs(v.d))));
    const auto softplus = hn::Add(hn::Max(hn::Neg(v.d), hn::Zero(d)), tail);
    v.u = hn::Sub(hn::Set(d, 0.69314718056f), softplus);
    return v;
  }
};

struct Sums {
  double reverse = 0, student_mixture = 0, teacher_mixture = 0, squares = 0;
};

Sums general_sums(const General& row, const float* s, const float* t, std::int64_t n) {
  const FloatTag d;
  Sums out;
  for_pieces(n, [&](std::int64_t begin, std::int64_t length) {
    auto reverse = hn::Zero(d), qu = hn::Zero(d), pw = hn::Zero(d), squares = hn::Zero(d);
    for_lanes(d, length, [&](std::int64_t i, std::int64_t lanes) {
      const auto v = row.at(s + begin + i, t + begin + i, lanes);
      reverse = hn::MulAdd(v.q, v.d, reverse);
      qu = hn::MulAdd(v.q, v.u, qu);
      pw = hn::MulAdd(v.p, hn::Sub(v.u, v.d), pw);
      squares = hn::MulAdd(v.difference, v.difference, squares);  // masked loads are 0 - 0
    });
    out.reverse += sum(d, reverse);
    out.student_mixture += sum(d, qu);
    out.teacher_mixture += sum(d, pw);
    out.squares += sum(d, squares);
  });
  return out;
}

// Divergences other than forward KL at temperature 1: their loss; with `gradient`, s becomes the
// gradient of everything but cross-entropy's label.
double general_row(float* s, const float* t, std::int64_t n, const LossWeights& w,
                   const Softmaxes& cold, const Softmaxes& warm, bool gradient, double scale) {
  const FloatTag d;
  const double tau = w.temperature, tau2 = tau * tau;
  const auto set = [&](double x) { return hn::Set(d, static_cast<float>(x)); };
  const General row{set(1 / tau), set(warm.student_max), set(warm.teacher_max),
                    set(std::log(warm.student_sum)), set(std::log(warm.teacher_sum))};
  const Sums sums = general_sums(row, s, t, n);
  const double loss =
      tau2 * (w.forward_kl * warm.kl() + w.reverse_kl * sums.reverse +
              w.jensen_shannon * 0.5 * (sums.student_mixture + sums.teacher_mixture)) +
      w.mse * sums.squares / static_cast<double>(n);
  if (!gradient) return loss;
  const auto forward = set(scale * tau * w.forward_kl), reverse = set(scale * tau * w.reverse_kl);
  const auto mixture = set(scale * tau * 0.5 * w.jensen_shannon);
  const auto mse = set(scale * 2 * w.mse / static_cast<double>(n));
  const auto label = set(scale * w.cross_entropy / cold.student_sum);
  const auto mean_d = set(sums.reverse), mean_u = set(sums.student_mixture);
  for_lanes(d, n, [&](std::int64_t i, std::int64_t lanes) {
    const auto v = row.at(s + i, t + i, lanes);
    auto g = hn::Mul(forward, hn::Sub(v.q, v.p));
    g = hn::MulAdd(hn::Mul(reverse, v.q), hn::Sub(v.d, mean_d), g);
    g = hn::MulAdd(hn::Mul(mixture, v.q), hn::Sub(v.u, mean_u), g);
    g = hn::MulAdd(mse, v.difference, g);
    if (w.cross_entropy != 0)
      g = hn::MulAdd(label, exp(d, hn::Sub(load(d, s + i, lanes), row.ms)), g);
    store(d, g, s + i, lanes);
  });
  return loss;
}

}  // namespace

RowResult head_row(float* s, float* t, std::int64_t n, std::int64_t label, const LossWeights& w,
                   bool gradient, double scale) {
  RowResult out;
  const double s_label = s[label];
  Softmaxes cold{largest(s, n), 0};
  if (!t) {
    cold.student_sum = sum_one(s, n, cold.student_max, gradient);
    out.ce = cold.student_max + std::log(cold.student_sum) - s_label;
    out.loss = w.cross_entropy * out.ce;
    if (gradient) {
      combine(s, nullptr, n, scale * w.cross_entropy / cold.student_sum, 0);
      s[label] -= static_cast<float>(scale * w.cross_entropy);
    }
    return out;
  }
  const double t_label = t[label];
  cold.teacher_max = largest(t, n);
  const bool general =
      w.reverse_kl != 0 || w.jensen_shannon != 0 || w.mse != 0 || w.temperature != 1;
  if (gradient && !general)
    sum_both<true>(s, t, n, 1, cold);
  else
    sum_both<false>(s, t, n, 1, cold);
  out.kl = cold.kl();
  out.ce = cold.student_max + std::log(cold.student_sum) - s_label;
  out.teacher_ce = cold.teacher_max + std::log(cold.teacher_sum) - t_label;
  out.agree = cold.agree;
  out.loss = w.cross_entropy * out.ce;
  if (general) {
    Softmaxes warm = cold;
    if (w.temperature != 1) {
      warm = {cold.student_max, cold.teacher_max};
      sum_both<false>(s, t, n, static_cast<float>(1 / w.temperature), warm);
    }
    out.loss += general_row(s, t, n, w, cold, warm, gradient, scale);
  } else {
    out.loss += w.forward_kl * out.kl;
    if (gradient)
      combine(s, t, n, scale * (w.forward_kl + w.cross_entropy) / cold.student_sum,
              scale * w.forward_kl / cold.teacher_sum);
  }
  if (gradient && w.cross_entropy != 0) s[label] -= static_cast<float>(scale * w.cross_entropy);
  return out;
}

}  // namespace qad::ops
