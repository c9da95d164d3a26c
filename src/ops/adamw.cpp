// The optimiser's loops: bound by memory, so every array is read and written once.
#include "ops/adamw.h"

#include <ATen/core/grad_mode.h>

#include "nvfp4/global_scale.h"
#include "ops/dispatch.h"
#include "ops/optimizer_checks.h"
#include "ops/simd.h"

namespace qad::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

constexpr std::int64_t kGrain = 16384;  // elements a thread should get at least

// One update of n elements, all in FP32. Returns the bits of the master's largest magnitude.
std::uint32_t update(const AdamWStep& s, float factor, const float* grad, float* m, float* v,
                     float* master, std::int64_t n) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> bits;
  const auto scale = hn::Set(d, factor), keep1 = hn::Set(d, s.keep1), keep2 = hn::Set(d, s.keep2);
  const auto beta2 = hn::Set(d, s.beta2), decay = hn::Set(d, s.decay), rate = hn::Set(d, s.rate);
  const auto correction = hn::Set(d, s.correction), epsilon = hn::Set(d, s.epsilon);
  auto most = hn::Zero(bits);
  for_lanes(d, n, [&](std::int64_t i, std::int64_t lanes) {
    const auto g = hn::Mul(load(d, grad + i, lanes), scale);
    auto mi = load(d, m + i, lanes);
    auto vi = load(d, v + i, lanes);
    mi = hn::MulAdd(keep1, hn::Sub(g, mi), mi);
    vi = hn::MulAdd(hn::Mul(keep2, g), g, hn::Mul(vi, beta2));
    const auto denominator = hn::MulAdd(hn::Sqrt(vi), correction, epsilon);
    const auto w = hn::Sub(hn::Mul(load(d, master + i, lanes), decay),
                           hn::Div(hn::Mul(rate, mi), denominator));
    store(d, mi, m + i, lanes);
    store(d, vi, v + i, lanes);
    store(d, w, master + i, lanes);
    const auto inside = hn::IfThenElseZero(hn::FirstN(d, lanes), w);
    most = hn::Max(most, hn::BitCast(bits, hn::Abs(inside)));
  });
  return static_cast<std::uint32_t>(hn::GetLane(hn::MaxOfLanes(bits, most)));
}

std::uint32_t largest(const float* x, std::int64_t n) {
  std::uint32_t most = 0;
  for (std::int64_t i = 0; i < n; ++i) most = std::max(most, nvfp4::magnitude_bits(x[i]));
  return most;
}

// f(begin, end) over ranges that begin at whole blocks of moments; the largest of what it returns.
template <class F>
Tensor amax_over(std::int64_t n, F&& f) {
  const std::int64_t blocks = (n + kMomentBlock - 1) / kMomentBlock;
  const std::uint32_t most = at::parallel_reduce(
      0, blocks, kGrain / kMomentBlock, std::uint32_t{0},
      [&](std::int64_t begin, std::int64_t end, std::uint32_t before) {
        return std::max(before, f(begin * kMomentBlock, std::min(n, end * kMomentBlock)));
      },
      [](std::uint32_t a, std::uint32_t b) { return std::max(a, b); });
  return at::scalar_tensor(nvfp4::bf16_amax(most), at::kFloat);
}

// The factor, and whether the step is called off.
struct Factor {
  float value = 1;
  explicit Factor(const Optional& t) {
    if (t && t->defined()) value = *t->const_data_ptr<float>();
  }
  bool off() const { return std::isnan(value); }
};

Tensor amax_of(const Tensor& master) {
  const float* w = master.const_data_ptr<float>();
  return amax_over(master.numel(), [&](std::int64_t begin, std::int64_t end) {
    return largest(w + begin, end - begin);
  });
}

// The moments of one block as floats, and the draws for what is stored of them.
struct Tile {
  alignas(64) float m[kMomentBlock], v[kMomentBlock];
  alignas(64) std::uint32_t draws[kMomentBlock + 1];
  std::int64_t n;

  Tile(const AdamWStep& s, std::int64_t begin, std::int64_t size) : n(size) {
    for (std::int64_t i = 0; i < n; i += 2) {
      const std::uint64_t bits = moment_draws(s, static_cast<std::uint64_t>((begin + i) / 2));
      draws[i] = static_cast<std::uint32_t>(bits);
      draws[i + 1] = static_cast<std::uint32_t>(bits >> 32);
    }
  }
  std::uint32_t for_m(std::int64_t i) const { return draws[i] & 0xFFFF; }
  std::uint32_t for_v(std::int64_t i) const { return draws[i] >> 16; }
};

float from_bf16(c10::BFloat16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.x) << 16);
}
c10::BFloat16 exact_bf16(float x) {
  return {static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16),
          c10::BFloat16::from_bits()};
}

// Calls step(tile, begin) for every block between `begin` and `end`; the largest of the results.
template <class F>
std::uint32_t for_tiles(const AdamWStep& s, std::int64_t begin, std::int64_t end, F&& step) {
  std::uint32_t most = 0;
  for (; begin < end; begin += kMomentBlock) {
    Tile tile(s, begin, std::min(kMomentBlock, end - begin));
    most = std::max(most, step(tile, begin));
  }
  return most;
}

// What an update begins with, whatever its moments are.
struct Update {
  Tensor grad;  // contiguous
  Factor factor;
  AdamWStep step;
  const float* g;
  float* w;

  Update(const Tensor& master, const Tensor& gradient, const Optional& scale, const AdamWStep& step)
      : grad(gradient.contiguous()), factor(scale), step(step) {
    check_in_place(grad, at::kFloat, master, "adamw", "grad");
    g = grad.const_data_ptr<float>();
    w = master.mutable_data_ptr<float>();
  }
};

Tensor adamw_cpu(const Tensor& master, const Tensor& grad, const Tensor& m, const Tensor& v,
                 const Optional& factor, double learning_rate, double beta1, double beta2,
                 double epsilon, double weight_decay, std::int64_t step, std::int64_t seed) {
  check_adamw(master, grad, factor, step);
  check_moments(m, v, master);
  const Update u(master, grad, factor,
                 adamw_step(learning_rate, beta1, beta2, epsilon, weight_decay, step,
                            static_cast<std::uint64_t>(seed)));
  if (u.factor.off()) return amax_of(master);
  if (m.scalar_type() == at::kFloat) {
    float *mp = m.mutable_data_ptr<float>(), *vp = v.mutable_data_ptr<float>();
    return amax_over(master.numel(), [&](std::int64_t begin, std::int64_t end) {
      return update(u.step, u.factor.value, u.g + begin, mp + begin, vp + begin, u.w + begin,
                    end - begin);
    });
  }
  auto* mp = m.mutable_data_ptr<c10::BFloat16>();
  auto* vp = v.mutable_data_ptr<c10::BFloat16>();
  return amax_over(master.numel(), [&](std::int64_t begin, std::int64_t end) {
    return for_tiles(u.step, begin, end, [&](Tile& t, std::int64_t at) {
      std::transform(mp + at, mp + at + t.n, t.m, from_bf16);
      std::transform(vp + at, vp + at + t.n, t.v, from_bf16);
      const std::uint32_t most = update(u.step, u.factor.value, u.g + at, t.m, t.v, u.w + at, t.n);
      for (std::int64_t i = 0; i < t.n; ++i) {
        mp[at + i] = exact_bf16(round_moment_to_bf16(t.m[i], t.for_m(i)));
        vp[at + i] = exact_bf16(round_moment_to_bf16(t.v[i], t.for_v(i)));
      }
      return most;
    });
  });
}

Tensor adamw8_cpu(const Tensor& master, const Tensor& grad, const Tensor& m_codes,
                  const Tensor& m_scales, const Tensor& v_codes, const Tensor& v_scales,
                  const Optional& factor, double learning_rate, double beta1, double beta2,
                  double epsilon, double weight_decay, std::int64_t step, std::int64_t seed) {
  check_adamw(master, grad, factor, step);
  check_moment8(m_codes, m_scales, master, "m");
  check_moment8(v_codes, v_scales, master, "v");
  const Update u(master, grad, factor,
                 adamw_step(learning_rate, beta1, beta2, epsilon, weight_decay, step,
                            static_cast<std::uint64_t>(seed)));
  if (u.factor.off()) return amax_of(master);
  auto* mc = m_codes.mutable_data_ptr<std::uint8_t>();
  auto* vc = v_codes.mutable_data_ptr<std::uint8_t>();
  float *ms = m_scales.mutable_data_ptr<float>(), *vs = v_scales.mutable_data_ptr<float>();
  return amax_over(master.numel(), [&](std::int64_t begin, std::int64_t end) {
    return for_tiles(u.step, begin, end, [&](Tile& t, std::int64_t at) {
      float &m_scale = ms[at / kMomentBlock], &v_scale = vs[at / kMomentBlock];
      for (std::int64_t i = 0; i < t.n; ++i) {
        t.m[i] = decode_m(mc[at + i], m_scale);
        t.v[i] = decode_v(vc[at + i], v_scale);
      }
      const std::uint32_t most = update(u.step, u.factor.value, u.g + at, t.m, t.v, u.w + at, t.n);
      m_scale = moment_scale(largest(t.m, t.n));
      v_scale = moment_scale(largest(t.v, t.n));
      const float m_inverse = inverse_scale(m_scale), v_inverse = inverse_scale(v_scale);
      for (std::int64_t i = 0; i < t.n; ++i) {
        mc[at + i] = encode_m(t.m[i], m_inverse, t.for_m(i));
        vc[at + i] = encode_v(t.v[i], v_inverse, t.for_v(i));
      }
      return most;
    });
  });
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def(
      "adamw_(Tensor(a!) master, Tensor grad, Tensor(b!) m, Tensor(c!) v, Tensor? factor, float "
      "learning_rate, float beta1, float beta2, float epsilon, float weight_decay, int step, int "
      "seed) -> Tensor amax");
  m.def(
      "adamw8_(Tensor(a!) master, Tensor grad, Tensor(b!) m_codes, Tensor(c!) m_scales, "
      "Tensor(d!) v_codes, Tensor(e!) v_scales, Tensor? factor, float learning_rate, float beta1, "
      "float beta2, float epsilon, float weight_decay, int step, int seed) -> Tensor amax");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("adamw_", adamw_cpu);
  m.impl("adamw8_", adamw8_cpu);
}

}  // namespace

Moment8 zero_moment8(const Tensor& master) {
  const std::int64_t blocks = (master.numel() + kMomentBlock - 1) / kMomentBlock;
  return {at::zeros(master.sizes(), master.options().dtype(at::kByte)),
          at::zeros({blocks}, master.options().dtype(at::kFloat))};
}

Tensor adamw_(const AdamW& a, const Tensor& master, const Tensor& grad, const Tensor& m,
              const Tensor& v, const Tensor& factor) {
  static const auto op = find_op<decltype(adamw_cpu)>("qad::adamw_");
  return call_kernel(op, master, grad, m, v, Optional(factor), a.learning_rate, a.beta1, a.beta2,
                     a.epsilon, a.weight_decay, a.step, static_cast<std::int64_t>(a.seed));
}

Tensor adamw_(const AdamW& a, const Tensor& master, const Tensor& grad, const Moment8& m,
              const Moment8& v, const Tensor& factor) {
  static const auto op = find_op<decltype(adamw8_cpu)>("qad::adamw8_");
  return call_kernel(op, master, grad, m.codes, m.scales, v.codes, v.scales, Optional(factor),
                     a.learning_rate, a.beta1, a.beta2, a.epsilon, a.weight_decay, a.step,
                     static_cast<std::int64_t>(a.seed));
}

}  // namespace qad::ops
