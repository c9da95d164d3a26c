// Attention over a paged cache where every sequence has one new token. There is little to do and
// much to wait for, so as many reads as possible are on their way at once: a block takes the rows
// (heads) that share a key-value head, a few threads take a key and read it and its value together,
// 16 bytes each, with a softmax of their own that is rescaled as they go. All of them are put
// together at the end.
#include <math_constants.h>

#include "cuda/early.cuh"
#include "cuda/paged.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

// Which heads a block takes: kRows of the group at most, `parts` blocks a group.
struct Heads {
  int parts, each;
};

// Sums over the threads of a key, who all get it.
template <int kThreads>
__device__ float key_sum(float x) {
#pragma unroll
  for (int step = kThreads / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// A new key's or value's elements as the cache holds them.
template <class C, int N, class T>
__device__ Raw<C, N> raw_to_cache(const T* from, float scale) {
  const Raw<T, N> raw = *reinterpret_cast<const Raw<T, N>*>(from);
  if constexpr (std::is_same_v<C, T>) {
    return raw;
  } else {
    float x[N];
    unpack<T>(raw, x);
    C c[N];
#pragma unroll
    for (int n = 0; n < N; ++n) c[n] = to_cache<C>(x[n], scale);
    Raw<C, N> cached;
    memcpy(&cached, c, sizeof cached);
    return cached;
  }
}

// T: of qkv and the result; C: of the cache; kThreads: a key's, each with N of its dimensions.
template <class T, class C, int kRows, int kThreads, int kWarps>
__global__ void __launch_bounds__(32 * kWarps)
    decode_kernel(PagedShape s, Heads heads, const T* qkv, C* keys, C* values, T* out, float* mixes,
                  float2* sums) {
  constexpr int N = kWide<T>, kDim = N * kThreads, kKeys = 32 / kThreads;
  constexpr int kTurns = kRows > 4 ? 2 : 4;  // keys of a thread that are read together
  __shared__ float parts[kWarps][kRows][kDim];
  __shared__ float2 states[kWarps][kRows];
  let_next_begin();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int mine = lane / kThreads, from = lane % kThreads * N;  // key of a turn, dimensions
  const std::int64_t sequence = blockIdx.x;
  const int kv = blockIdx.y / heads.parts, group = static_cast<int>(s.heads / s.kv_heads);
  const int first = static_cast<int>(blockIdx.y % heads.parts) * heads.each;
  const int rows = min(heads.each, group - first);
  const std::int64_t head = kv * group + first;
  const int length = s.lengths[sequence], newest = length - 1;
  const T* token = qkv + sequence * (s.heads + 2 * s.kv_heads) * kDim;
  const T *new_key = token + (s.heads + kv) * kDim, *new_value = new_key + s.kv_heads * kDim;

  float q[kRows][N] = {};
  float largest[kRows], sum[kRows] = {}, mix[kRows][N] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) largest[r] = kLowest;

  constexpr int kRound = kWarps * kKeys * kTurns;
  const int splits = gridDim.z, share = (length + splits * kRound - 1) / (splits * kRound) * kRound;
  const int begin = static_cast<int>(blockIdx.z) * share, end = min(length, begin + share);
  // The first round waits, when its reads of the cache are on their way, for the new token.
  bool waits = true;
  for (int base = begin + warp * kKeys * kTurns; waits || base < end; base += kRound) {
    // Apart, so that no read waits for the one before.
    std::int64_t at[kTurns];
    Raw<C, N> k[kTurns], v[kTurns];
#pragma unroll
    for (int t = 0; t < kTurns; ++t) {
      const int key = base + t * kKeys + mine;
      at[t] = key < end ? place_of(s, sequence, key) : -1;
    }
#pragma unroll
    for (int t = 0; t < kTurns; ++t) {
      const std::int64_t from_start = (at[t] * s.kv_heads + kv) * kDim + from;
      k[t] = v[t] = Raw<C, N>{};
      if (at[t] < 0 || base + t * kKeys + mine == newest) continue;
      k[t] = *reinterpret_cast<const Raw<C, N>*>(keys + from_start);
      v[t] = *reinterpret_cast<const Raw<C, N>*>(values + from_start);
    }
    if (waits) {
      wait_for_previous();
      waits = false;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows) continue;
        load(token + (head + r) * kDim + from, q[r]);
#pragma unroll
        for (int n = 0; n < N; ++n) q[r][n] *= s.scale * kLog2E * s.key_scale;
      }
    }
#pragma unroll
    for (int t = 0; t < kTurns; ++t) {
      if (at[t] < 0 || base + t * kKeys + mine != newest) continue;
      k[t] = raw_to_cache<C, N>(new_key + from, s.key_scale);
      v[t] = raw_to_cache<C, N>(new_value + from, s.value_scale);
    }
    float score[kTurns][kRows];
#pragma unroll
    for (int t = 0; t < kTurns; ++t) {
      const int key = base + t * kKeys + mine;
      float x[N];
      unpack<C>(k[t], x);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float dot = 0;
#pragma unroll
        for (int n = 0; n < N; ++n) dot += q[r][n] * x[n];
        dot = key_sum<kThreads>(dot);
        score[t][r] = key >= end ? -CUDART_INF_F : at[t] < 0 ? CUDART_NAN_F : dot;
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float before = largest[r];
#pragma unroll
      for (int t = 0; t < kTurns; ++t) largest[r] = fmaxf(largest[r], score[t][r]);
      const float shrink = exp2f(before - largest[r]);
      sum[r] *= shrink;
#pragma unroll
      for (int n = 0; n < N; ++n) mix[r][n] *= shrink;
    }
#pragma unroll
    for (int t = 0; t < kTurns; ++t) {
      float x[N];
      unpack<C>(v[t], x);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float p = exp2f(score[t][r] - largest[r]);
        sum[r] += p;
#pragma unroll
        for (int n = 0; n < N; ++n) mix[r][n] += p * x[n];
      }
    }
  }

  // Nobody else reads them before the next pass.
  const std::int64_t place =
      first == 0 && newest >= begin && newest < end ? place_of(s, sequence, newest) : -1;
  if (place >= 0)
    for (int d = threadIdx.x; d < kDim; d += blockDim.x) {
      keys[(place * s.kv_heads + kv) * kDim + d] = to_cache<C>(new_key[d], s.key_scale);
      values[(place * s.kv_heads + kv) * kDim + d] = to_cache<C>(new_value[d], s.value_scale);
    }

    // The keys' threads of a warp become one softmax, then the warps.
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float most = largest[r];
#pragma unroll
    for (int step = kThreads; step < 32; step *= 2)
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, step));
    const float factor = exp2f(largest[r] - most);
    const auto over_keys = [&](float x) {
      x *= factor;
#pragma unroll
      for (int step = kThreads; step < 32; step *= 2) x += __shfl_xor_sync(kAllLanes, x, step);
      return x;
    };
    const float all = over_keys(sum[r]);
    if (lane == 0) states[warp][r] = make_float2(most, all);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float x = over_keys(mix[r][n]);
      if (mine == 0) parts[warp][r][from + n] = x;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < rows * kDim; i += blockDim.x) {
    const int r = i / kDim, d = i % kDim;
    float most = kLowest, all = 0, x = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) most = fmaxf(most, states[w][r].x);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float factor = exp2f(states[w][r].x - most);
      all += states[w][r].y * factor;
      x += parts[w][r][d] * factor;
    }
    x *= s.value_scale;
    const std::int64_t row = sequence * s.heads + head + r;
    if (splits == 1) {
      store(out + row * kDim + d, x / all);
    } else {
      const std::int64_t partial = blockIdx.z * s.tokens * s.heads + row;
      mixes[partial * kDim + d] = x;
      if (d == 0) sums[partial] = make_float2(most, all);
    }
  }
}

// Calls f<kRows, kThreads>() for the threads of a key; false if there is no such kernel.
template <class F>
bool for_shape(int rows, std::int64_t threads, F&& f) {
  const auto with = [&]<int kRows>() {
    switch (threads) {
      case 8:
        f.template operator()<kRows, 8>();
        return true;
      case 16:
        f.template operator()<kRows, 16>();
        return true;
      case 32:
        f.template operator()<kRows, 32>();
        return true;
      default:
        return false;
    }
  };
  switch (rows) {
    case 1:
      return with.template operator()<1>();
    case 2:
      return with.template operator()<2>();
    case 3:
      return with.template operator()<3>();
    case 4:
      return with.template operator()<4>();
    default:
      return with.template operator()<kMostPagedRows>();
  }
}

}  // namespace

bool decode_attention(Type type, const PagedShape& s, const void* qkv, void* keys, void* values,
                      int splits, float* mixes, float2* sums, void* out, cudaStream_t stream) {
  // With as many new tokens as sequences, each has one.
  if (s.longest_new != 1 || s.tokens != s.sequences) return false;
  for (const void* p : {qkv, static_cast<const void*>(keys), static_cast<const void*>(values)})
    if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) return false;
  const auto group = static_cast<int>(s.heads / s.kv_heads);
  const Heads heads{static_cast<int>(blocks_for(group, kMostPagedRows)),
                    group < kMostPagedRows ? group : kMostPagedRows};
  const dim3 grid(static_cast<unsigned>(s.sequences),
                  static_cast<unsigned>(s.kv_heads * heads.parts), static_cast<unsigned>(splits));
  // BF16 is what models are in on a GPU; another type's kernels would only be compiled.
  using T = __nv_bfloat16;
  if (type != Type::bf16 || s.dim % kWide<T> != 0) return false;
  const auto run = [&]<class C, int kRows, int kThreads>() {
    // Shared memory for every warp's rows: 32 KiB at most.
    constexpr int kValues = kRows * kThreads * kWide<T>;
    constexpr int kMost = kValues <= 512 ? 16 : kValues <= 1024 ? 8 : 4;
    // As many warps as help where blocks are fewer than processors; else blocks share one.
    const bool few = std::int64_t{grid.x} * grid.y * grid.z <= processors_of_device();
    const auto kernel = few ? decode_kernel<T, C, kRows, kThreads, kMost>
                            : decode_kernel<T, C, kRows, kThreads, kMost / 2>;
    launch(true, kernel, grid, 32 * (few ? kMost : kMost / 2), stream, s, heads,
           static_cast<const T*>(qkv), static_cast<C*>(keys), static_cast<C*>(values),
           static_cast<T*>(out), mixes, sums);
  };
  return for_cache<T>(s, [&]<class C>() {
    return for_shape(heads.each, s.dim / kWide<T>, [&]<int kRows, int kThreads>() {
      run.template operator()<C, kRows, kThreads>();
    });
  });
}

}  // namespace qad::cuda
