// The softmax of a row of attention scores, shared by the kernels that hold whole rows of them. Its
// sums run in lanes of fixed places, so masked entries at a row's end change no bit, however many.
#pragma once

#include <cmath>

#include "ops/simd.h"

namespace qad::ops {

// Rows are padded to a multiple of this many floats, and aligned as vectors are.
inline std::int64_t key_step() {
  return 2 * hn::Lanes(FloatTag());
}

// Only [0, seen) counts: the rest of [0, keys) becomes minus infinity.
HWY_INLINE void mask_row(std::int64_t seen, std::int64_t keys, float* row) {
  const FloatTag d;
  const std::int64_t lanes = hn::Lanes(d);
  const auto never = hn::Set(d, -INFINITY);
  std::int64_t j = seen / lanes * lanes;
  if (j < keys) {
    hn::Store(hn::IfThenElse(hn::FirstN(d, seen - j), hn::Load(d, row + j), never), d, row + j);
    for (j += lanes; j < keys; j += lanes) hn::Store(never, d, row + j);
  }
}

struct RowSum {
  float largest, total;
};

// The row becomes 2^(s - largest), whose sum is `total`. keys: a multiple of key_step().
HWY_INLINE RowSum softmax_row(std::int64_t keys, float* row) {
  const FloatTag d;
  const std::int64_t lanes = hn::Lanes(d);
  auto m0 = hn::Load(d, row), m1 = hn::Load(d, row + lanes);
  for (std::int64_t j = 2 * lanes; j < keys; j += 2 * lanes) {
    m0 = hn::Max(m0, hn::Load(d, row + j));
    m1 = hn::Max(m1, hn::Load(d, row + j + lanes));
  }
  const float largest = max(d, hn::Max(m0, m1));
  const auto m = hn::Set(d, largest);
  auto s0 = hn::Zero(d), s1 = hn::Zero(d);
  for (std::int64_t j = 0; j < keys; j += 2 * lanes) {
    const auto p0 = exp2(d, hn::Sub(hn::Load(d, row + j), m));
    const auto p1 = exp2(d, hn::Sub(hn::Load(d, row + j + lanes), m));
    hn::Store(p0, d, row + j);
    hn::Store(p1, d, row + j + lanes);
    s0 = hn::Add(s0, p0);
    s1 = hn::Add(s1, p1);
  }
  return {largest, sum(d, hn::Add(s0, s1))};
}

}  // namespace qad::ops
