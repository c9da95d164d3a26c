// Vector helpers of the operators' kernels: Highway compiled for the one target that -march names.
#pragma once

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

namespace qad::ops {

namespace hn = hwy::HWY_NAMESPACE;
using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

// 2^x to 2 ulp for |x| < 126; below -126 it is 0, so that exp of minus infinity is, too.
// x = n + r with |r| <= 1/2: 2^r by its Taylor series to degree 7 (remainder 6e-9 relative),
// 2^n by adding n to the exponent's bits.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp2(D d, V x) {
  const hn::RebindToSigned<D> di;
  const V low = hn::Set(d, -126.0f);
  const V clamped = hn::Min(hn::Max(x, low), hn::Set(d, 126.0f));
  const V n = hn::Round(clamped);
  const V r = hn::Sub(clamped, n);
  V p = hn::Set(d, 1.5252733804e-5f);
  p = hn::MulAdd(p, r, hn::Set(d, 1.5403530393e-4f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.3333558146e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 9.6181291076e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.5504108665e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 2.4022650696e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 6.9314718056e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const auto bits = hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::ConvertTo(di, n)));
  return hn::IfThenElseZero(hn::Ge(x, low), hn::BitCast(d, bits));
}

// e^x to 2 ulp for |x| < 87: x * log2(e) is split in two so that its rounding does not grow with x.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp(D d, V x) {
  const hn::RebindToSigned<D> di;
  const V low = hn::Set(d, -87.0f);
  const V clamped = hn::Min(hn::Max(x, low), hn::Set(d, 88.0f));
  const V n = hn::Round(hn::Mul(clamped, hn::Set(d, 1.44269504f)));
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), clamped);  // ln 2 in 10 bits: exact product
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  V p = hn::Set(d, 1.9841270e-4f);
  p = hn::MulAdd(p, r, hn::Set(d, 1.3888889e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3333333e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1666667e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666667e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const auto bits = hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::ConvertTo(di, n)));
  return hn::IfThenElseZero(hn::Ge(x, low), hn::BitCast(d, bits));
}

// 1 / (1 + e^-x)
template <class D, class V = hn::Vec<D>>
HWY_INLINE V sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, exp(d, hn::Neg(x))));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE float sum(D d, V v) {
  return hn::GetLane(hn::SumOfLanes(d, v));
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE float max(D d, V v) {
  return hn::GetLane(hn::MaxOfLanes(d, v));
}

// Calls f(offset, lanes) over n elements, whole vectors first; the last call has the remainder.
// Loads and stores of a remainder go through load() and store() below.
template <class D, class F>
HWY_INLINE void for_lanes(D d, std::int64_t n, F&& f) {
  const std::int64_t lanes = hn::Lanes(d);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) f(i, lanes);
  if (i < n) f(i, n - i);
}
// Only from AVX2 on do masked loads and stores leave alone what they mask out; older ones may touch
// memory that is not ours.
constexpr bool kMasksProtect = HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2;

template <class D, class V = hn::Vec<D>>
HWY_INLINE V load(D d, const float* p, std::int64_t lanes) {
  if (lanes == static_cast<std::int64_t>(hn::Lanes(d))) return hn::LoadU(d, p);
  if constexpr (kMasksProtect) return hn::MaskedLoad(hn::FirstN(d, lanes), d, p);
  HWY_ALIGN float whole[hn::MaxLanes(D())] = {};
  std::copy_n(p, lanes, whole);
  return hn::Load(d, whole);
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store(D d, V v, float* p, std::int64_t lanes) {
  if (lanes == static_cast<std::int64_t>(hn::Lanes(d))) {
    hn::StoreU(v, d, p);
  } else if constexpr (kMasksProtect) {
    hn::BlendedStore(v, hn::FirstN(d, lanes), d, p);
  } else {
    HWY_ALIGN float whole[hn::MaxLanes(D())];
    hn::Store(v, d, whole);
    std::copy_n(whole, lanes, p);
  }
}

}  // namespace qad::ops
