// Sources: llama3 as in Llama 3.1's reference code, YaRN arXiv 2309.00071 sections 3.2-3.4; both as
// modeling_rope_utils.py of Transformers 5.23 rounds them.
#include "models/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace qad::models {
namespace {

at::Tensor llama3(const Rope& rope, const at::Tensor& plain) {
  const double original = static_cast<double>(rope.original_max_position);
  const at::Tensor wavelength = 2 * std::numbers::pi / plain;
  const at::Tensor slow = plain / rope.factor;
  const at::Tensor smooth = (original / wavelength - rope.low_freq_factor) /
                            (rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor between = (1 - smooth) * plain / rope.factor + smooth * plain;
  const at::Tensor outer = at::where(wavelength > original / rope.low_freq_factor, slow, plain);
  const at::Tensor medium = wavelength.ge(original / rope.high_freq_factor)
                                .logical_and(wavelength.le(original / rope.low_freq_factor));
  return at::where(medium, between, outer);
}

// Dimensions that turn more than beta_fast times over the original context stay, those that turn
// fewer than beta_slow times are interpolated, with a linear ramp between.
at::Tensor yarn(const Rope& rope, std::int64_t head_dim, const at::Tensor& powers) {
  const double dim = static_cast<double>(head_dim);
  const auto dimension_of = [&](double turns) {
    return dim *
           std::log(static_cast<double>(rope.original_max_position) /
                    (turns * 2 * std::numbers::pi)) /
           (2 * std::log(rope.theta));
  };
  double low = dimension_of(rope.beta_fast), high = dimension_of(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  const at::Tensor steps = at::arange(head_dim / 2, at::kFloat);
  const at::Tensor kept = 1 - ((steps - low) / (high - low)).clamp(0, 1);
  return 1.0 / (rope.factor * powers) * (1 - kept) + 1.0 / powers * kept;
}

}  // namespace

at::Tensor inverse_frequencies(const Rope& rope, std::int64_t head_dim) {
  const at::Tensor exponents = at::arange(0, head_dim, 2, at::kFloat) / head_dim;
  const at::Tensor powers = at::pow(rope.theta, exponents);
  const at::Tensor plain = 1.0 / powers;
  switch (rope.kind) {
    case Rope::Kind::linear:
      return plain / rope.factor;
    case Rope::Kind::llama3:
      return llama3(rope, plain);
    case Rope::Kind::yarn:
      return yarn(rope, head_dim, powers);
    case Rope::Kind::plain:
      break;
  }
  return plain;
}

RopeTables rope_tables(const Rope& rope, std::int64_t head_dim, std::int64_t begin,
                       std::int64_t end) {
  const at::Tensor angles = at::outer(at::arange(begin, end, at::kLong).to(at::kFloat),
                                      inverse_frequencies(rope, head_dim));
  RopeTables tables{angles.cos(), angles.sin()};
  if (rope.attention_factor != 1) {
    tables.cos.mul_(rope.attention_factor);
    tables.sin.mul_(rope.attention_factor);
  }
  return tables;
}

}  // namespace qad::models
