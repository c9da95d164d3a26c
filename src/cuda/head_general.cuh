// Divergences other than forward KL at temperature 1, for a row: one or two passes
// more than the usual losses need.
#pragma once

#include "cuda/head_row.cuh"
#include "cuda/head_softmax.cuh"

namespace qad::cuda {

// Sums at another temperature, the maxima known; uses sums 0 to 2.
template <class T>
__device__ Softmaxes at_temperature(const Row<T>& row, Softmaxes cold, float inverse,
                                    Scratch& scratch) {
  float s_sum = 0, t_sum = 0, cross = 0;
  row.each([&]<int N>(int, const float(&s)[N], const float(&t)[N]) {
    for (int k = 0; k < N; ++k) {
      const float a = (s[k] - cold.s_max) * inverse, b = (t[k] - cold.t_max) * inverse;
      const float p = expf(b);
      s_sum += expf(a), t_sum += p, cross += p * (b - a);
    }
  });
  cold.s_sum = row_sum(s_sum, scratch, 0);
  cold.t_sum = row_sum(t_sum, scratch, 1);
  cold.cross = row_sum(cross, scratch, 2);
  return cold;
}

// A token under the general losses. With d = log q - log p: u = log 2 - log(1 + e^-d).
struct Token {
  float q, p, d, u;
  __device__ Token(float s, float t, const Softmaxes& warm, float inverse, float log_s,
                   float log_t) {
    const float a = (s - warm.s_max) * inverse - log_s, b = (t - warm.t_max) * inverse - log_t;
    q = expf(a), p = expf(b), d = a - b;
    u = 0.69314718056f - (fmaxf(-d, 0.0f) + log1pf(expf(-fabsf(d))));
  }
};

// Returns the loss without cross-entropy.
template <class T, class G>
__device__ double general(Row<T>& row, const ops::LossWeights& w, const Softmaxes& cold,
                          const Gradient<G>& gradient, Scratch& scratch) {
  const double scale = gradient.scale;
  const double tau = w.temperature;
  const float inverse = static_cast<float>(1 / tau);
  const Softmaxes warm = at_temperature(row, cold, inverse, scratch);
  const double log_s = log(warm.s_sum), log_t = log(warm.t_sum);
  const auto token = [&](float s, float t) {
    return Token(s, t, warm, inverse, static_cast<float>(log_s), static_cast<float>(log_t));
  };
  float reverse = 0, student = 0, teacher = 0, squares = 0;
  row.each([&]<int N>(int, const float(&s)[N], const float(&t)[N]) {
    for (int k = 0; k < N; ++k) {
      const Token x = token(s[k], t[k]);
      reverse += x.q * x.d, student += x.q * x.u, teacher += x.p * (x.u - x.d);
      squares += (s[k] - t[k]) * (s[k] - t[k]);
    }
  });
  const double mean_d = row_sum(reverse, scratch, 3);
  const double mean_u = row_sum(student, scratch, 4);
  const double mixture = mean_u + row_sum(teacher, scratch, 5);
  const double distance = row_sum(squares, scratch, 6) / row.n;
  if (gradient.to) {
    const float fk = static_cast<float>(scale * tau * w.forward_kl);
    const float rk = static_cast<float>(scale * tau * w.reverse_kl);
    const float js = static_cast<float>(scale * tau * 0.5 * w.jensen_shannon);
    const float mse = static_cast<float>(scale * 2 * w.mse / row.n);
    const float ce = static_cast<float>(scale * w.cross_entropy / cold.s_sum);
    const float d0 = static_cast<float>(mean_d), u0 = static_cast<float>(mean_u);
    const float one_hot = static_cast<float>(scale * w.cross_entropy);
    write_gradient(row, gradient, one_hot, [&](float s, float t) {
      const Token x = token(s, t);
      float g = fk * (x.q - x.p) + rk * x.q * (x.d - d0) + js * x.q * (x.u - u0) + mse * (s - t);
      if (ce != 0) g += ce * expf(s - cold.s_max);
      return g;
    });
  }
  const double kl = warm.cross / warm.t_sum + log_s - log_t;
  return tau * tau *
             (w.forward_kl * kl + w.reverse_kl * mean_d + w.jensen_shannon * 0.5 * mixture) +
         w.mse * distance;
}

}  // namespace qad::cuda
