// The softmaxes of a row of both logits, in one pass: of one thread's values as they come, then of
// a warp's and a block's.
#pragma once

#include <cmath>

#include "cuda/head_row.cuh"
#include "cuda/reduce.cuh"

namespace qad::cuda {

// e^x by the card's own exponential, relative error 2^-22; results below 2^-126 are 0.
__device__ inline float exponential(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
  return y;
}

// One thread's part of the softmaxes of both rows, as it goes along; then the whole row's.
struct Online {
  float s_max = -INFINITY, t_max = -INFINITY;
  float s_sum = 0, t_sum = 0, cross = 0;  // cross: sum of e^(t - t_max) (t - s)
  bool both = false;                      // some token has both maxima

  template <int N>
  __device__ void add(const float (&s)[N], const float (&t)[N]) {
    float s_top = s[0], t_top = t[0];
#pragma unroll
    for (int k = 1; k < N; ++k) s_top = fmaxf(s_top, s[k]), t_top = fmaxf(t_top, t[k]);
    if (s_top > s_max || t_top > t_max) {
      if (s_top > s_max) s_sum *= exponential(s_max - s_top), s_max = s_top;
      if (t_top > t_max) {
        const float shrink = exponential(t_max - t_top);
        t_sum *= shrink, cross *= shrink, t_max = t_top;
      }
      both = false;
    }
    if (s_top == s_max && t_top == t_max) {
#pragma unroll
      for (int k = 0; k < N; ++k) both = both || (s[k] == s_max && t[k] == t_max);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float p = exponential(t[k] - t_max);
      s_sum += exponential(s[k] - s_max), t_sum += p, cross += p * (t[k] - s[k]);
    }
  }
};

struct Softmaxes {
  float s_max, t_max;
  double s_sum, t_sum, cross;  // at a temperature: of (logit - max) / temperature
  __device__ double log_s() const { return s_max + log(s_sum); }
  __device__ double log_t() const { return t_max + log(t_sum); }
};

// A warp's part of a row.
struct Part {
  Softmaxes of;
  bool both;  // some token has both maxima
};

constexpr int kRowWarps = kRowThreads / 32;

struct Scratch {
  Part parts[2][kRowWarps];  // rows take turns, so that nobody waits for those who still read
  double sums[8][32];
};

// The sum over a row, in every thread; each slot once in a row.
__device__ inline double row_sum(double x, Scratch& scratch, int slot) {
  return block_sum(x, scratch.sums[slot]);
}

// What sums under the maximum `from` are worth under `to`; nothing where there were none.
__device__ inline double shrunk(float from, float to) {
  return from == -INFINITY ? 0 : exponential(from - to);
}

// The softmaxes of what all lanes hold together.
__device__ inline Part over_lanes(const Part& part) {
  Part all;
  all.of.s_max = warp_max(part.of.s_max);
  all.of.t_max = warp_max(part.of.t_max);
  const double s = shrunk(part.of.s_max, all.of.s_max);
  const double t = shrunk(part.of.t_max, all.of.t_max);
  all.of.s_sum = warp_sum(part.of.s_sum * s);
  all.of.t_sum = warp_sum(part.of.t_sum * t);
  all.of.cross = warp_sum(part.of.cross * t);
  const bool top = part.of.s_max == all.of.s_max && part.of.t_max == all.of.t_max;
  all.both = __any_sync(kAllLanes, part.both && top);
  return all;
}

// From each thread's part to the row's, in every thread, behind one barrier. `turn`: 0 and 1 in
// turns.
__device__ inline Part combine(const Online& thread, Scratch& scratch, int turn) {
  const Part warp = over_lanes(
      {{thread.s_max, thread.t_max, thread.s_sum, thread.t_sum, thread.cross}, thread.both});
  const int lane = threadIdx.x % 32;
  if (lane == 0) scratch.parts[turn][threadIdx.x / 32] = warp;
  __syncthreads();
  const Part none{{-INFINITY, -INFINITY, 0, 0, 0}, false};
  return over_lanes(lane < kRowWarps ? scratch.parts[turn][lane] : none);
}

}  // namespace qad::cuda
