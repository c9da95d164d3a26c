// AdamW on masters of FP32 or in halves, with the CPU's bits: the same steps in the same order
// (ops/adamw_step.h), each an intrinsic that rounds to nearest. A warp takes 256 elements, which is
// a block of 8-bit moments, four neighbouring ones a thread and then four more: every access of a
// warp is one piece.
#include <concepts>

#include "cuda/launch.h"
#include "cuda/reduce.cuh"
#include "cuda/tables.cuh"
#include "cuda/vector.cuh"
#include "nvfp4/global_scale.h"

namespace qad::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kWidth = 4;                                     // of an access, in elements
constexpr int kAccesses = ops::kMomentBlock / (32 * kWidth);  // of a thread in each array
constexpr int kEach = kWidth * kAccesses;                     // elements of a thread

// Where a thread's elements of a warp's block are. kWhole: all of them exist, at aligned addresses,
// so that nothing stands between one access and the next.
template <bool kWhole>
struct Place {
  std::int64_t block, n;

  __device__ std::int64_t at(int access) const {
    return block * ops::kMomentBlock + threadIdx.x % 32 * kWidth + access * (32 * kWidth);
  }
  __device__ bool inside(int i) const { return kWhole || at(i / kWidth) + i % kWidth < n; }

  template <class T>
  __device__ void read(const T* from, float (&x)[kEach]) const {
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) {
      float part[kWidth] = {};
      if constexpr (kWhole)
        load(from + at(a), part);
      else
        for (int k = 0; k < kWidth; ++k)
          if (at(a) + k < n) part[k] = to_float(from[at(a) + k]);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) x[a * kWidth + k] = part[k];
    }
  }
  template <class T>
  __device__ void write(T* to, const float (&x)[kEach]) const {
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) {
      float part[kWidth];
#pragma unroll
      for (int k = 0; k < kWidth; ++k) part[k] = x[a * kWidth + k];
      if constexpr (kWhole)
        store(to + at(a), part);
      else
        for (int k = 0; k < kWidth; ++k)
          if (at(a) + k < n) store(to + at(a) + k, part[k]);
    }
  }
  // Integers, as they lie.
  template <std::integral T>
  __device__ void read(const T* from, T (&x)[kEach]) const {
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) {
      T part[kWidth] = {};
      if constexpr (kWhole) {
        const auto raw = *reinterpret_cast<const Raw<T, kWidth>*>(from + at(a));
        memcpy(part, &raw, sizeof raw);
      } else {
        for (int k = 0; k < kWidth; ++k)
          if (at(a) + k < n) part[k] = from[at(a) + k];
      }
#pragma unroll
      for (int k = 0; k < kWidth; ++k) x[a * kWidth + k] = part[k];
    }
  }
  template <std::integral T>
  __device__ void write(T* to, const T (&x)[kEach]) const {
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) {
      if constexpr (kWhole) {
        Raw<T, kWidth> raw;
        memcpy(&raw, x + a * kWidth, sizeof raw);
        __stwb(reinterpret_cast<Raw<T, kWidth>*>(to + at(a)), raw);
      } else {
        for (int k = 0; k < kWidth; ++k)
          if (at(a) + k < n) to[at(a) + k] = x[a * kWidth + k];
      }
    }
  }
};

// Half of every element's draw: kSecond is v.
template <bool kSecond>
__device__ std::uint32_t half(const std::uint32_t draw) {
  return kSecond ? draw >> 16 : draw & 0xFFFF;
}

// How a master lies in memory; amax: what becomes of the bits of the largest magnitude.
struct Whole {
  float* values;
  __device__ explicit Whole(const Masters& m) : values(static_cast<float*>(m.high)) {}
  template <class P>
  __device__ void read(const P& p, float (&x)[kEach]) const {
    p.read(values, x);
  }
  template <class P>
  __device__ void write(const P& p, const float (&x)[kEach]) const {
    p.write(values, x);
  }
  static __device__ float amax(std::uint32_t largest) { return nvfp4::bf16_amax(largest); }
};
struct Split {
  std::uint16_t* high;
  std::int16_t* low;
  __device__ explicit Split(const Masters& m)
      : high(static_cast<std::uint16_t*>(m.high)), low(m.low) {}
  template <class P>
  __device__ void read(const P& p, float (&x)[kEach]) const {
    std::uint16_t h[kEach];
    std::int16_t l[kEach];
    p.read(high, h);
    p.read(low, l);
#pragma unroll
    for (int i = 0; i < kEach; ++i) x[i] = ops::join_master({h[i], l[i]});
  }
  template <class P>
  __device__ void write(const P& p, const float (&x)[kEach]) const {
    std::uint16_t h[kEach];
    std::int16_t l[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const ops::Halves halves = ops::split_master(x[i]);
      h[i] = halves.high;
      l[i] = halves.low;
    }
    p.write(high, h);
    p.write(low, l);
  }
  static __device__ float amax(std::uint32_t largest) {
    return ops::split_amax(largest);
  }
};

// How a moment lies in memory. FP32:
template <bool kSecond>
struct Plain {
  float* values;
  __device__ Plain(void* data, float*) : values(static_cast<float*>(data)) {}
  template <class P>
  __device__ void read(const P& p, float (&x)[kEach]) const {
    p.read(values, x);
  }
  template <class P>
  __device__ void write(const P& p, const float (&x)[kEach], const std::uint32_t (&)[kEach]) const {
    p.write(values, x);
  }
  static constexpr bool kDraws = false;
};
template <bool kSecond>
struct Rounded {
  __nv_bfloat16* values;
  __device__ Rounded(void* data, float*) : values(static_cast<__nv_bfloat16*>(data)) {}
  template <class P>
  __device__ void read(const P& p, float (&x)[kEach]) const {
    p.read(values, x);
  }
  template <class P>
  __device__ void write(const P& p, const float (&x)[kEach],
                        const std::uint32_t (&draws)[kEach]) const {
    float y[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) y[i] = ops::round_moment_to_bf16(x[i], half<kSecond>(draws[i]));
    p.write(values, y);  // exact
  }
  static constexpr bool kDraws = true;
};
template <bool kSecond>
struct Coded {
  std::uint8_t* codes;
  float* scales;
  __device__ Coded(void* data, float* scales)
      : codes(static_cast<std::uint8_t*>(data)), scales(scales) {}
  template <class P>
  __device__ void read(const P& p, float (&x)[kEach]) const {
    std::uint8_t c[kEach];
    p.read(codes, c);
    const float scale = scales[p.block];
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      x[i] = kSecond ? ops::decode_v(c[i], scale) : ops::decode_m(c[i], scale);
  }
  template <class P>
  __device__ void write(const P& p, const float (&x)[kEach],
                        const std::uint32_t (&draws)[kEach]) const {
    std::uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) most = max(most, nvfp4::magnitude_bits(x[i]));
    const float scale = ops::moment_scale(__reduce_max_sync(kAllLanes, most));
    const float inverse = ops::inverse_scale(scale);
    std::uint8_t c[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      c[i] = kSecond ? ops::encode_v(x[i], inverse, half<true>(draws[i]))
                     : ops::encode_m(x[i], inverse, half<false>(draws[i]));
    p.write(codes, c);
    if (threadIdx.x % 32 == 0) scales[p.block] = scale;
  }
  static constexpr bool kDraws = true;
};

// One block of one warp; returns the bits of the largest magnitude of a thread's elements.
template <class G, class W, class M, class V, class P>
__device__ std::uint32_t update(const ops::AdamWStep& s, const P& p, const G* grad, const W& master,
                                const M& m, const V& v, float factor) {
  float w[kEach];
  master.read(p, w);
  if (!isnan(factor)) {
    float g[kEach], mi[kEach], vi[kEach];
    p.read(grad, g);
    m.read(p, mi);
    v.read(p, vi);
    std::uint32_t draws[kEach] = {};
    if constexpr (M::kDraws || V::kDraws) {
#pragma unroll
      for (int i = 0; i < kEach; i += 2) {
        const auto access = static_cast<std::uint64_t>(p.at(i / kWidth));  // a multiple of kWidth
        const std::uint64_t bits = ops::moment_draws(s, access / 2 + i % kWidth / 2);
        draws[i] = static_cast<std::uint32_t>(bits);
        draws[i + 1] = static_cast<std::uint32_t>(bits >> 32);
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float gi = __fmul_rn(g[i], factor);
      mi[i] = __fmaf_rn(s.keep1, __fsub_rn(gi, mi[i]), mi[i]);
      vi[i] = __fmaf_rn(__fmul_rn(s.keep2, gi), gi, __fmul_rn(vi[i], s.beta2));
      const float denominator = __fmaf_rn(__fsqrt_rn(vi[i]), s.correction, s.epsilon);
      w[i] = __fsub_rn(__fmul_rn(w[i], s.decay), __fdiv_rn(__fmul_rn(s.rate, mi[i]), denominator));
    }
    m.write(p, mi, draws);
    v.write(p, vi, draws);
    master.write(p, w);
  }
  std::uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    if (p.inside(i)) most = max(most, nvfp4::magnitude_bits(w[i]));
  return most;
}

// Tensors of one launch, with the blocks of threads that each has.
constexpr int kTensors = 128;
struct Table {
  AdamWTensor of[kTensors];
  bool wide[kTensors];
  std::int32_t first[kTensors + 1];
  int tensors;
};
constexpr std::int64_t kRounds = 4;  // blocks of moments that a warp takes
constexpr std::int64_t kShare = kRounds * kThreads * kEach;

// A tensor's blocks' largest magnitudes join in its amax, as bits, which is 0 before.
template <class G, class W, class M, class V>
__global__ void __launch_bounds__(kThreads, 3)
    adamw_kernel(const __grid_constant__ Table table, const float* factor) {
  const int which = tensor_of_block(table);
  const AdamWTensor& t = table.of[which];
  const float scale = factor ? *factor : 1.0f;
  const std::int64_t blocks = blocks_for(t.n, ops::kMomentBlock);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto* grad = static_cast<const G*>(t.grad);
  const W master(t.masters);
  const M m(t.moments.m, t.moments.m_scales);
  const V v(t.moments.v, t.moments.v_scales);
  std::uint32_t most = 0;
  std::int64_t b = (blockIdx.x - table.first[which]) * (kRounds * kWarps) + warp;
  for (int round = 0; round < kRounds && b < blocks; ++round, b += kWarps) {
    const bool whole = table.wide[which] && (b + 1) * ops::kMomentBlock <= t.n;
    most = max(most, whole ? update(t.step, Place<true>{b, t.n}, grad, master, m, v, scale)
                           : update(t.step, Place<false>{b, t.n}, grad, master, m, v, scale));
  }
  __shared__ std::uint32_t of_warps[kWarps];
  most = __reduce_max_sync(kAllLanes, most);
  if (lane == 0) of_warps[warp] = most;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (const std::uint32_t other : of_warps) most = max(most, other);
  atomicMax(t.amax, __float_as_uint(W::amax(most)));
}

bool aligned(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

}  // namespace

void adamw(std::span<const AdamWTensor> tensors, const float* factor, cudaStream_t stream) {
  const auto launch = [&]<class W, class M, class V>(const Table& table) {
    const std::int32_t blocks = table.first[table.tensors];
    if (blocks == 0) return;
    for_type(table.of[0].grad_type, [&]<class G>() {
      adamw_kernel<G, W, M, V>
          <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(table, factor);
    });
  };
  const auto with_moments = [&]<class M, class V>(const Table& table) {
    if (table.of[0].masters.low == nullptr)
      launch.template operator()<Whole, M, V>(table);
    else
      launch.template operator()<Split, M, V>(table);
  };
  const auto alike = [](const AdamWTensor& a, const AdamWTensor& b) {
    return a.grad_type == b.grad_type && (a.masters.low == nullptr) == (b.masters.low == nullptr) &&
           a.moments.kind == b.moments.kind;
  };
  for_tables<Table>(tensors, alike, [&](Table& table) {
    for (int i = 0; i < table.tensors; ++i) {
      const AdamWTensor& t = table.of[i];
      table.wide[i] = aligned(t.grad) && aligned(t.masters.high) && aligned(t.masters.low) &&
                      aligned(t.moments.m) && aligned(t.moments.v);
      table.first[i + 1] = table.first[i] + static_cast<std::int32_t>(blocks_for(t.n, kShare));
    }
    const Moments::Kind kind = table.of[0].moments.kind;
    if (kind == Moments::f32)
      with_moments.template operator()<Plain<false>, Plain<true>>(table);
    else if (kind == Moments::bf16)
      with_moments.template operator()<Rounded<false>, Rounded<true>>(table);
    else
      with_moments.template operator()<Coded<false>, Coded<true>>(table);
  });
}

}  // namespace qad::cuda
