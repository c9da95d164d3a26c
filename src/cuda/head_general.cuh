// Divergences other than forward KL at temperature 1, for a block and its row: one or two passes
// more than the usual losses need.
#pragma once

#include "cuda/head_row.cuh"

namespace qad::cuda {

// Sums at another temperature, the maxima known; uses sums 3 to 5.
__device__ inline Softmaxes at_temperature(const Row& row, Softmaxes cold, float inverse,
                                           Scratch& scratch) {
  float s_sum = 0, t_sum = 0, cross = 0;
  row.each([&](int, const float* s, const float* t, int width) {
    for (int k = 0; k < width; ++k) {
      const float a = (s[k] - cold.s_max) * inverse, b = (t[k] - cold.t_max) * inverse;
      const float p = expf(b);
      s_sum += expf(a), t_sum += p, cross += p * (b - a);
    }
  });
  cold.s_sum = block_sum<double>(s_sum, scratch.sums[3]);
  cold.t_sum = block_sum<double>(t_sum, scratch.sums[4]);
  cold.cross = block_sum<double>(cross, scratch.sums[5]);
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

// Returns the loss without cross-entropy. Takes the sums 0 and 1 again: `combine` has been read,
// barriers ago.
template <class G>
__device__ double general(const Row& row, const ops::LossWeights& w, const Softmaxes& cold,
                          std::int64_t label, double scale, G* gradient, Scratch& scratch) {
  const double tau = w.temperature;
  const float inverse = static_cast<float>(1 / tau);
  const Softmaxes warm = at_temperature(row, cold, inverse, scratch);
  const double log_s = log(warm.s_sum), log_t = log(warm.t_sum);
  const auto token = [&](float s, float t) {
    return Token(s, t, warm, inverse, static_cast<float>(log_s), static_cast<float>(log_t));
  };
  float reverse = 0, student = 0, teacher = 0, squares = 0;
  row.each([&](int, const float* s, const float* t, int width) {
    for (int k = 0; k < width; ++k) {
      const Token x = token(s[k], t[k]);
      reverse += x.q * x.d, student += x.q * x.u, teacher += x.p * (x.u - x.d);
      squares += (s[k] - t[k]) * (s[k] - t[k]);
    }
  });
  const double mean_d = block_sum<double>(reverse, scratch.sums[6]);
  const double mean_u = block_sum<double>(student, scratch.sums[7]);
  const double mixture = mean_u + block_sum<double>(teacher, scratch.sums[0]);
  const double distance = block_sum<double>(squares, scratch.sums[1]) / row.n;
  if (gradient) {
    const float fk = static_cast<float>(scale * tau * w.forward_kl);
    const float rk = static_cast<float>(scale * tau * w.reverse_kl);
    const float js = static_cast<float>(scale * tau * 0.5 * w.jensen_shannon);
    const float mse = static_cast<float>(scale * 2 * w.mse / row.n);
    const float ce = static_cast<float>(scale * w.cross_entropy / cold.s_sum);
    const float d0 = static_cast<float>(mean_d), u0 = static_cast<float>(mean_u);
    const float one_hot = static_cast<float>(scale * w.cross_entropy);
    write_gradient(row, gradient, label, one_hot, [&](float s, float t) {
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
