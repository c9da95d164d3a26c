// A row of both logits, walked by one block, and the gradient written back. Memory is what a head
// costs, so each thread keeps the first of its groups of values in shared memory for the passes
// that follow, and the last pass fetches those of the row that comes next. The rest of a row is
// read again in every pass.
#pragma once

#include <cuda_pipeline_primitives.h>

#include "cuda/launch.h"
#include "cuda/vector.cuh"

namespace qad::cuda {

constexpr int kRowThreads = 512;

// Both logits of a row, and of the row after it; the teacher's count as 0 where there is none. A
// thread owns every kRowThreads-th group of kWidth values; those after the last group are single
// values. What one thread reads, in any pass, no other does, so that a thread waits for its own
// copies alone.
template <class T>
class Row {
 public:
  static constexpr int kWidth = kWide<T>, kStep = kRowThreads * kWidth;
  const T *s, *t;  // t null: no teacher
  const int n;

  // `shared`: room for `keep` groups of either row of every thread.
  __device__ Row(const T* s, const T* t, int n, uint4* shared, int keep)
      : s(s), t(t), n(n), slots_(shared + threadIdx.x) {
    const int groups = n / kWidth, begin = static_cast<int>(threadIdx.x);
    begin_ = begin * kWidth;

    mine_ = groups > begin ? (groups - begin - 1) / kRowThreads + 1 : 0;
    keep_ = min(keep, mine_);
  }

  // The row goes to shared memory; to be called once for every row.
  __device__ void fetch() {
    for (int i = 0; i < keep_; ++i) fetch(i);
  }
  // On to the row that is `values` further.
  __device__ void advance(std::int64_t values) {
    s += values;
    if (t) t += values;
  }

  // The first pass; as each(), but waits for what was fetched.
  template <class F>
  __device__ void read(F&& f) const {
    for (int i = 0; i < keep_; ++i) {
      __pipeline_wait_prior(keep_ - 1 - i);
      kept(i, f);
    }
    again(f);
    singles(f);
  }

  // Calls f(first, s, t) for groups of this thread: arrays of kWidth values or of one. The values
  // that memory gives come first: the pass before read them last.
  template <class F>
  __device__ void each(F&& f) const {
    again(f);
    for (int i = 0; i < keep_; ++i) kept(i, f);
    singles(f);
  }

  // The last pass: as each(), and advances; what is done with makes room for the row that follows
  // if it is to be `fetched`.
  template <class F>
  __device__ void last(std::int64_t values, bool fetched, F&& f) {
    again(f);
    singles(f);
    advance(values);
    for (int i = 0; i < keep_; ++i) {
      kept(i, f);
      if (fetched) fetch(i);
    }
  }

  // For the row's places alone: f(first, width).
  template <class F>
  __device__ void places(F&& f) const {
    for (int i = 0; i < mine_; ++i) f(begin_ + i * kStep, kWidth);
    if (const int i = single(); i < n) f(i, 1);
  }

 private:
  __device__ int single() const { return n / kWidth * kWidth + static_cast<int>(threadIdx.x); }

  __device__ void fetch(int i) {
    const int at = begin_ + i * kStep;
    __pipeline_memcpy_async(slots_ + 2 * i * kRowThreads, s + at, 16);
    if (t) __pipeline_memcpy_async(slots_ + (2 * i + 1) * kRowThreads, t + at, 16);
    __pipeline_commit();
  }

  template <class F>
  __device__ void kept(int i, F&& f) const {
    float a[kWidth], b[kWidth] = {};
    unpack<T>(slots_[2 * i * kRowThreads], a);
    if (t) unpack<T>(slots_[(2 * i + 1) * kRowThreads], b);
    f(begin_ + i * kStep, a, b);
  }

  template <class F>
  __device__ void again(F&& f) const {
    for (int i = keep_; i < mine_; ++i) {
      const int at = begin_ + i * kStep;
      float a[kWidth], b[kWidth] = {};
      load(s + at, a);
      if (t) load(t + at, b);
      f(at, a, b);
    }
  }

  template <class F>
  __device__ void singles(F&& f) const {
    if (const int i = single(); i < n) {
      const float a[1] = {to_float(s[i])}, b[1] = {t ? to_float(t[i]) : 0};
      f(i, a, b);
    }
  }

  uint4* slots_;
  int begin_, mine_, keep_;
};

template <class G, int N>
__device__ void write(G* to, const float (&g)[N]) {
  if constexpr (N == 1)
    store(to, g[0]);
  else
    store(to, g);
}

// Where the gradient of a row goes, and how the walk goes on from there.
template <class G>
struct Gradient {
  G* to;                 // null: not wanted
  int label;             // -1: none
  double scale;          // of the row's loss
  std::int64_t advance;  // values to the next row
  bool more;             // there is one
};

// The gradient g of (loss without the one-hot part) at a token, and the label's share after it.
// The row's last pass.
template <class T, class G, class F>
__device__ void write_gradient(Row<T>& row, const Gradient<G>& gradient, float label_share, F&& g) {
  G* const to = gradient.to;
  const int label = gradient.label;
  row.last(gradient.advance, gradient.more,
           [&]<int N>(int first, const float(&s)[N], const float(&t)[N]) {
             float out[N];
#pragma unroll
             for (int k = 0; k < N; ++k) out[k] = g(s[k], t[k]);
             if (static_cast<unsigned>(label - first) < N) {
#pragma unroll
               for (int k = 0; k < N; ++k)
                 if (first + k == label) out[k] -= label_share;
             }
             write(to + first, out);
           });
}

}  // namespace qad::cuda
