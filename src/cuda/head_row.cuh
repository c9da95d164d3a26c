// A row of both logits, walked by one block: its shares, its softmaxes in one pass, and the
// gradient written back.
#pragma once

#include <cmath>

#include "cuda/launch.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {

constexpr int kRowThreads = 512;

// Both logits of a row; the teacher's count as 0 where there is none.
struct Row {
  const float *s, *t;
  int n;
  bool teacher;

  // Calls f(first, s, t, width) for this thread's shares of the row: four values each, then single
  // ones. Places of s and t from `width` on are unspecified.
  template <class F>
  __device__ void each(F&& f) const {
    const int whole = n / 4 * 4;
    float a[4], b[4] = {};
    for (int i = threadIdx.x * 4; i < whole; i += kRowThreads * 4) {
      load(s + i, a);
      if (teacher) load(t + i, b);
      f(i, a, b, 4);
    }
    if (const int i = whole + threadIdx.x; i < n) {
      a[0] = s[i];
      if (teacher) b[0] = t[i];
      f(i, a, b, 1);
    }
  }
};

// One thread's part of the softmaxes of both rows, as it goes along; then the whole row's.
struct Online {
  float s_max = -INFINITY, t_max = -INFINITY;
  float s_sum = 0, t_sum = 0, cross = 0;  // cross: sum of e^(t - t_max) (t - s)
  bool both = false;                      // some token has both maxima

  __device__ void add(float s, float t) {
    if (s > s_max || t > t_max) {
      if (s > s_max) s_sum *= expf(s_max - s), s_max = s;
      if (t > t_max) {
        const float shrink = expf(t_max - t);
        t_sum *= shrink, cross *= shrink, t_max = t;
      }
      both = false;
    }
    const float p = expf(t - t_max);
    s_sum += expf(s - s_max), t_sum += p, cross += p * (t - s);
    both = both || (s == s_max && t == t_max);
  }
};

struct Softmaxes {
  float s_max, t_max;
  double s_sum, t_sum, cross;  // at a temperature: of (logit - max) / temperature
  __device__ double log_s() const { return s_max + log(s_sum); }
  __device__ double log_t() const { return t_max + log(t_sum); }
};

struct Scratch {
  float maxima[2][32];
  double sums[8][32];
  int both;
};

// From each thread's part to the row's; uses the first three sums.
__device__ inline Softmaxes combine(const Online& part, Scratch& scratch, bool& agree) {
  if (threadIdx.x == 0) scratch.both = 0;
  Softmaxes row;
  row.s_max = block_max(part.s_max, scratch.maxima[0]);
  row.t_max = block_max(part.t_max, scratch.maxima[1]);
  if (part.both && part.s_max == row.s_max && part.t_max == row.t_max) scratch.both = 1;
  const double s = expf(part.s_max - row.s_max), t = expf(part.t_max - row.t_max);
  row.s_sum = block_sum(part.s_sum * s, scratch.sums[0]);
  row.t_sum = block_sum(part.t_sum * t, scratch.sums[1]);
  row.cross = block_sum(part.cross * t, scratch.sums[2]);
  agree = scratch.both != 0;
  return row;
}

template <class G>
__device__ void write(G* to, const float (&g)[4], int width) {
  if (width == 4)
    store(to, g);
  else
    store(to, g[0]);
}

// The gradient g of (loss without the one-hot part) at a token, and the label's share after it.
template <class G, class F>
__device__ void write_gradient(const Row& row, G* to, std::int64_t label, float label_share,
                               F&& g) {
  row.each([&](int first, const float* s, const float* t, int width) {
    float out[4];
    for (int k = 0; k < width; ++k) {
      out[k] = g(s[k], t[k]);
      if (first + k == label) out[k] -= label_share;
    }
    write(to + first, out, width);
  });
}

}  // namespace qad::cuda
