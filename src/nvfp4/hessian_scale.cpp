// Block scales chosen by a local Hessian (ModelOpt's local_hessian): rounding changes a linear's
// result by X e, so that of the errors e of equal length those hurt more that lie where inputs are
// large or go together. All 126 scales are tried: unlike the plain squared error, e^T H e has no
// cheap bound.
#include <algorithm>
#include <cmath>
#include <limits>

#include "nvfp4/block.h"
#include "nvfp4/scale_search.h"

HWY_BEFORE_NAMESPACE();
namespace qad::nvfp4 {
namespace {

// e^T H e of e = (x - e2m1(x/d) * d) * unit. Products and sums are rounded one by one in a fixed
// order (rows of H, then halves added to each other), so that every CPU chooses the same scale.
HWY_INLINE float block_loss(const float* x, float d, float unit, const float* hessian) {
  const Floats f;
  const auto divisor = hn::Set(f, d);
  HWY_ALIGN float errors[kBlock], terms[kBlock];
  for (int i = 0; i < kBlock; i += kLanes) {
    const auto in = hn::LoadU(f, x + i);
    const auto y = hn::Mul(round_e2m1(hn::Div(in, divisor)), divisor);
    hn::Store(hn::Mul(hn::Sub(in, y), hn::Set(f, unit)), f, errors + i);
  }
  for (int i = 0; i < kBlock; i += kLanes) {
    auto sum = hn::Zero(f);
    for (int j = 0; j < kBlock; ++j)
      sum = hn::Add(sum, hn::Mul(hn::Set(f, errors[j]), hn::LoadU(f, hessian + j * kBlock + i)));
    hn::Store(hn::Mul(sum, hn::Load(f, errors + i)), f, terms + i);
  }
  for (int half = kBlock / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) terms[i] += terms[i + half];
  return terms[0];
}

std::uint8_t best_scale(const float* x, float global, const float* hessian) {
  const float amax = block_amax(x);
  if (amax == 0) return e4m3_encode(1.0f);
  const float unit = error_unit(amax);
  std::uint8_t best = 0;
  float least = std::numeric_limits<float>::infinity();
  for (std::uint8_t code = 1; code < kE4M3NaN; ++code) {
    const float d = e4m3_decode(code) * global;
    const float loss = block_loss(x, d, unit, hessian);
    if (loss < least || best == 0) best = code, least = loss;
    if (amax <= 0.25f * d) break;  // every value rounds to 0, and so under larger scales
  }
  return best;
}

}  // namespace

void hessian_scales(const float* x, std::int64_t rows, std::int64_t cols, float global,
                    const float* hessians, std::uint8_t* scales) {
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t col = 0; col < cols; col += kBlock) {
      float block[kBlock] = {};
      std::copy_n(x + row * cols + col, std::min<std::int64_t>(kBlock, cols - col), block);
      *scales++ = best_scale(block, global, hessians + col * kBlock);
    }
}

}  // namespace qad::nvfp4
HWY_AFTER_NAMESPACE();
