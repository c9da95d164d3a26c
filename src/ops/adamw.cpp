// The optimiser's loops: bound by memory, so every array is read and written once.
#include "ops/adamw.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>

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

// The masters of a tensor as floats: where they lie, or joined from their halves in `scratch`.
class Masters {
 public:
  Masters(const Tensor& high, const Optional& low) : size_(high.numel()) {
    if (low && low->defined()) {
      high_ = high.mutable_data_ptr<c10::BFloat16>();
      low_ = low->mutable_data_ptr<std::int16_t>();
    } else {
      whole_ = high.mutable_data_ptr<float>();
    }
  }
  std::int64_t size() const { return size_; }
  float* read(std::int64_t at, std::int64_t n, float* scratch) const {
    if (low_ == nullptr) return whole_ + at;
    for (std::int64_t i = 0; i < n; ++i) scratch[i] = join_master({high_[at + i].x, low_[at + i]});
    return scratch;
  }
  void write(std::int64_t at, std::int64_t n, const float* w) const {  // what read() returned
    if (low_ == nullptr) return;
    for (std::int64_t i = 0; i < n; ++i) {
      const Halves h = split_master(w[i]);
      high_[at + i].x = h.high;
      low_[at + i] = h.low;
    }
  }
  // From the bits of the masters' largest magnitude.
  float amax(std::uint32_t largest) const {
    return low_ == nullptr ? nvfp4::bf16_amax(largest) : split_amax(largest);
  }

 private:
  std::int64_t size_;
  float* whole_ = nullptr;
  c10::BFloat16* high_ = nullptr;
  std::int16_t* low_ = nullptr;
};

// Calls f(at, n) for every block of moments, which returns the bits of the largest magnitude of its
// masters; what adamw_ returns.
template <class F>
Tensor for_blocks(const Masters& masters, F&& f) {
  const std::int64_t size = masters.size(), blocks = (size + kMomentBlock - 1) / kMomentBlock;
  const std::uint32_t most = at::parallel_reduce(
      0, blocks, kGrain / kMomentBlock, std::uint32_t{0},
      [&](std::int64_t begin, std::int64_t end, std::uint32_t largest) {
        for (std::int64_t at = begin * kMomentBlock; at < std::min(size, end * kMomentBlock);
             at += kMomentBlock)
          largest = std::max(largest, f(at, std::min(kMomentBlock, size - at)));
        return largest;
      },
      [](std::uint32_t a, std::uint32_t b) { return std::max(a, b); });
  return at::scalar_tensor(masters.amax(most), at::kFloat);
}

Tensor amax_of(const Masters& masters) {
  return for_blocks(masters, [&](std::int64_t at, std::int64_t n) {
    alignas(64) float scratch[kMomentBlock];
    return largest(masters.read(at, n, scratch), n);
  });
}

// The factor, and whether the step is called off.
struct Factor {
  float value = 1;
  explicit Factor(const Optional& t) {
    if (t && t->defined()) value = *t->const_data_ptr<float>();
  }
  bool off() const { return std::isnan(value); }
};

// The moments of one block as floats, and the draws for what is stored of them.
struct Tile {
  alignas(64) float m[kMomentBlock], v[kMomentBlock];
  alignas(64) std::uint32_t draws[kMomentBlock + 1];

  Tile(const AdamWStep& s, std::int64_t begin, std::int64_t n) {
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

// An update whatever its moments are.
struct Update {
  Tensor grad;  // contiguous
  Masters masters;
  Factor factor;
  AdamWStep step;
  const float* g;

  Update(const Tensor& master, const Optional& low, const Tensor& gradient, const Optional& scale,
         const AdamWStep& step)
      : grad(gradient.contiguous()), masters(master, low), factor(scale), step(step) {
    check_in_place(grad, at::kFloat, master, "adamw", "grad");
    g = grad.const_data_ptr<float>();
  }
  // Of the n elements from `at` on, a block at most, with their moments.
  std::uint32_t block(std::int64_t at, std::int64_t n, float* m, float* v) const {
    alignas(64) float scratch[kMomentBlock];
    float* w = masters.read(at, n, scratch);
    const std::uint32_t most = update(step, factor.value, g + at, m, v, w, n);
    masters.write(at, n, w);
    return most;
  }
};

Tensor adamw_cpu(const Tensor& master, const Optional& low, const Tensor& grad, const Tensor& m,
                 const Tensor& v, const Optional& factor, double learning_rate, double beta1,
                 double beta2, double epsilon, double weight_decay, std::int64_t step,
                 std::int64_t seed) {
  check_adamw(master, low, grad, factor, step);
  check_moments(m, v, master);
  const Update u(master, low, grad, factor,
                 adamw_step(learning_rate, beta1, beta2, epsilon, weight_decay, step,
                            static_cast<std::uint64_t>(seed)));
  if (u.factor.off()) return amax_of(u.masters);
  if (m.scalar_type() == at::kFloat) {
    float *mp = m.mutable_data_ptr<float>(), *vp = v.mutable_data_ptr<float>();
    return for_blocks(u.masters, [&](std::int64_t at, std::int64_t n) {
      return u.block(at, n, mp + at, vp + at);
    });
  }
  auto* mp = m.mutable_data_ptr<c10::BFloat16>();
  auto* vp = v.mutable_data_ptr<c10::BFloat16>();
  return for_blocks(u.masters, [&](std::int64_t at, std::int64_t n) {
    Tile t(u.step, at, n);
    std::transform(mp + at, mp + at + n, t.m, from_bf16);
    std::transform(vp + at, vp + at + n, t.v, from_bf16);
    const std::uint32_t most = u.block(at, n, t.m, t.v);
    for (std::int64_t i = 0; i < n; ++i) {
      mp[at + i] = exact_bf16(round_moment_to_bf16(t.m[i], t.for_m(i)));
      vp[at + i] = exact_bf16(round_moment_to_bf16(t.v[i], t.for_v(i)));
    }
    return most;
  });
}

Tensor adamw8_cpu(const Tensor& master, const Optional& low, const Tensor& grad,
                  const Tensor& m_codes, const Tensor& m_scales, const Tensor& v_codes,
                  const Tensor& v_scales, const Optional& factor, double learning_rate,
                  double beta1, double beta2, double epsilon, double weight_decay,
                  std::int64_t step, std::int64_t seed) {
  check_adamw(master, low, grad, factor, step);
  check_moment8(m_codes, m_scales, master, "m");
  check_moment8(v_codes, v_scales, master, "v");
  const Update u(master, low, grad, factor,
                 adamw_step(learning_rate, beta1, beta2, epsilon, weight_decay, step,
                            static_cast<std::uint64_t>(seed)));
  if (u.factor.off()) return amax_of(u.masters);
  auto* mc = m_codes.mutable_data_ptr<std::uint8_t>();
  auto* vc = v_codes.mutable_data_ptr<std::uint8_t>();
  float *ms = m_scales.mutable_data_ptr<float>(), *vs = v_scales.mutable_data_ptr<float>();
  return for_blocks(u.masters, [&](std::int64_t at, std::int64_t n) {
    Tile t(u.step, at, n);
    float &m_scale = ms[at / kMomentBlock], &v_scale = vs[at / kMomentBlock];
    for (std::int64_t i = 0; i < n; ++i) {
      t.m[i] = decode_m(mc[at + i], m_scale);
      t.v[i] = decode_v(vc[at + i], v_scale);
    }
    const std::uint32_t most = u.block(at, n, t.m, t.v);
    m_scale = moment_scale(largest(t.m, n));
    v_scale = moment_scale(largest(t.v, n));
    const float m_inverse = inverse_scale(m_scale), v_inverse = inverse_scale(v_scale);
    for (std::int64_t i = 0; i < n; ++i) {
      mc[at + i] = encode_m(t.m[i], m_inverse, t.for_m(i));
      vc[at + i] = encode_v(t.v[i], v_inverse, t.for_v(i));
    }
    return most;
  });
}

Tensor adamw_list_cpu(at::TensorList masters, at::TensorList lows, at::TensorList grads,
                      at::TensorList m, at::TensorList v, at::TensorList m_scales,
                      at::TensorList v_scales, const Optional& factor, double learning_rate,
                      double beta1, double beta2, double epsilon,
                      at::ArrayRef<double> weight_decays, std::int64_t step,
                      at::IntArrayRef seeds) {
  check_adamw_list(masters, lows, grads, m, v, m_scales, v_scales, weight_decays, seeds);
  std::vector<Tensor> amax;
  for (std::size_t i = 0; i < masters.size(); ++i) {
    const Optional low = lows.empty() ? Optional() : lows[i];
    amax.push_back(m_scales.empty()
                       ? adamw_cpu(masters[i], low, grads[i], m[i], v[i], factor, learning_rate,
                                   beta1, beta2, epsilon, weight_decays[i], step, seeds[i])
                       : adamw8_cpu(masters[i], low, grads[i], m[i], m_scales[i], v[i], v_scales[i],
                                    factor, learning_rate, beta1, beta2, epsilon, weight_decays[i],
                                    step, seeds[i]));
  }
  return at::stack(amax);
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def(
      "adamw_list_(Tensor(a!)[] masters, Tensor(b!)[] lows, Tensor[] grads, Tensor(c!)[] m, "
      "Tensor(d!)[] v, Tensor(e!)[] m_scales, Tensor(f!)[] v_scales, Tensor? factor, float "
      "learning_rate, float beta1, float beta2, float epsilon, float[] weight_decays, int step, "
      "int[] seeds) -> Tensor amax");
  m.def(
      "adamw_(Tensor(a!) master, Tensor(b!)? low, Tensor grad, Tensor(c!) m, Tensor(d!) v, Tensor? "
      "factor, float learning_rate, float beta1, float beta2, float epsilon, float weight_decay, "
      "int step, int seed) -> Tensor amax");
  m.def(
      "adamw8_(Tensor(a!) master, Tensor(b!)? low, Tensor grad, Tensor(c!) m_codes, Tensor(d!) "
      "m_scales, Tensor(e!) v_codes, Tensor(f!) v_scales, Tensor? factor, float learning_rate, "
      "float beta1, float beta2, float epsilon, float weight_decay, int step, int seed) -> Tensor "
      "amax");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("adamw_", adamw_cpu);
  m.impl("adamw8_", adamw8_cpu);
  m.impl("adamw_list_", adamw_list_cpu);
}

}  // namespace

Master split_master(const Tensor& weights) {
  const auto options = weights.options().requires_grad(false);
  if (weights.scalar_type() == at::kBFloat16)
    return {weights, at::zeros(weights.sizes(), options.dtype(at::kShort))};
  const Tensor from = weights.detach().to(at::kCPU, at::kFloat).contiguous();
  const Tensor high = at::empty(from.sizes(), from.options().dtype(at::kBFloat16));
  const Tensor low = at::empty(from.sizes(), from.options().dtype(at::kShort));
  Masters(high, low).write(0, from.numel(), from.const_data_ptr<float>());
  return {high.to(weights.device()), low.to(weights.device())};
}

Moment8 zero_moment8(const Tensor& master) {
  const std::int64_t blocks = (master.numel() + kMomentBlock - 1) / kMomentBlock;
  return {at::zeros(master.sizes(), master.options().dtype(at::kByte)),
          at::zeros({blocks}, master.options().dtype(at::kFloat))};
}

Tensor adamw_(const AdamW& a, const Master& master, const Tensor& grad, const Tensor& m,
              const Tensor& v, const Tensor& factor) {
  static const auto op = find_op<decltype(adamw_cpu)>("qad::adamw_");
  return call_kernel(op, master.high, Optional(master.low), grad, m, v, Optional(factor),
                     a.learning_rate, a.beta1, a.beta2, a.epsilon, a.weight_decay, a.step,
                     static_cast<std::int64_t>(a.seed));
}

Tensor adamw_(const AdamW& a, const Master& master, const Tensor& grad, const Moment8& m,
              const Moment8& v, const Tensor& factor) {
  static const auto op = find_op<decltype(adamw8_cpu)>("qad::adamw8_");
  return call_kernel(op, master.high, Optional(master.low), grad, m.codes, m.scales, v.codes,
                     v.scales, Optional(factor), a.learning_rate, a.beta1, a.beta2, a.epsilon,
                     a.weight_decay, a.step, static_cast<std::int64_t>(a.seed));
}

Tensor adamw_(const AdamW& a, const std::vector<AdamWItem>& items, const Tensor& factor) {
  static const auto op = find_op<decltype(adamw_list_cpu)>("qad::adamw_list_");
  std::vector<Tensor> masters, lows, grads, m, v, m_scales, v_scales;
  std::vector<double> weight_decays;
  std::vector<std::int64_t> seeds;
  for (const AdamWItem& item : items) {
    const bool coded = !item.m.defined();
    masters.push_back(item.master.high);
    if (item.master.split()) lows.push_back(item.master.low);
    grads.push_back(item.grad);
    m.push_back(coded ? item.m8.codes : item.m);
    v.push_back(coded ? item.v8.codes : item.v);
    if (coded) m_scales.push_back(item.m8.scales), v_scales.push_back(item.v8.scales);
    weight_decays.push_back(item.weight_decay);
    seeds.push_back(static_cast<std::int64_t>(item.seed));
  }
  return call_kernel(op, masters, lows, grads, m, v, m_scales, v_scales, Optional(factor),
                     a.learning_rate, a.beta1, a.beta2, a.epsilon, weight_decays, a.step, seeds);
}

}  // namespace qad::ops
