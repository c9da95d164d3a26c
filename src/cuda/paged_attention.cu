// Attention over a paged cache, whatever is new (decode_attention.cu is faster for a token of each
// sequence): a block takes up to eight rows (queries of heads that share a key-value head) and
// reads each key and value once for them. Its warps take 32 keys in turn, each with a softmax of
// its own that is rescaled as it goes; they are put together at the end. Where that leaves the
// device idle, several blocks share a context, and a second kernel puts theirs together (Dao et
// al., Flash-Decoding).
#include <math_constants.h>

#include "cuda/paged.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kSplitKeys = 256;  // a block's share of a context is no shorter, for its overhead

// Which rows a block takes: `tokens` neighbours of a sequence, of each `heads` of the group.
struct Tiling {
  int tokens, heads, parts;  // parts: blocks that share a group
};

__device__ int new_tokens(const PagedShape& s, std::int64_t sequence) {
  return s.starts[sequence + 1] - s.starts[sequence];
}

// The last sequence for which first(sequence) <= i.
template <class F>
__device__ std::int64_t sequence_of(const PagedShape& s, std::int64_t i, F&& first) {
  std::int64_t low = 0, high = s.sequences;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (first(middle) <= i ? low : high) = middle;
  }
  return low;
}

// A block a token.
template <class T, class C>
__global__ void store_kernel(PagedShape s, const T* qkv, C* keys, C* values) {
  const std::int64_t t = blockIdx.x, width = s.kv_heads * s.dim;
  const std::int64_t sequence = sequence_of(s, t, [&](std::int64_t i) { return s.starts[i]; });
  const std::int64_t past = s.lengths[sequence] - new_tokens(s, sequence);
  const std::int64_t place = place_of(s, sequence, past + t - s.starts[sequence]);
  if (place < 0) return;
  const T* from = qkv + t * (s.heads + 2 * s.kv_heads) * s.dim + s.heads * s.dim;
  for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    keys[place * width + i] = to_cache<C>(from[i], s.key_scale);
    values[place * width + i] = to_cache<C>(from[width + i], s.value_scale);
  }
}

// sums[r] += q[r] . k for the rows of a tile; q [kRows, dim].
template <int N, int kRows, class T>
__device__ void add_products(const float* q, const T* k, int dim, float (&sums)[kRows]) {
  for (int i = 0; i < dim; i += N) {
    float x[N];
    load(k + i, x);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float y[N];
      if constexpr (N == 1)
        y[0] = q[r * dim + i];
      else
        load_pieces(q + r * dim + i, y);
#pragma unroll
      for (int n = 0; n < N; ++n) sums[r] += y[n] * x[n];
    }
  }
}

// A warp's softmax over the keys it has seen: the rows' maxima, and its own lane's share of sums.
// A lane has the dimensions lane, lane + 32, ... of `mix`.
template <int kRows, int kChunks>
struct State {
  float largest[kRows], sum[kRows], mix[kRows][kChunks];
};

// The scores of 32 keys become weights [32, kRows], what was summed before is rescaled.
template <int kRows, int kChunks>
__device__ void weigh(float (&score)[kRows], State<kRows, kChunks>& state, float* weights) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float before = state.largest[r];
    state.largest[r] = fmaxf(before, warp_max(score[r]));
    const float p = exp2f(score[r] - state.largest[r]), shrink = exp2f(before - state.largest[r]);
    state.sum[r] = state.sum[r] * shrink + p;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) state.mix[r][c] *= shrink;
    weights[threadIdx.x % 32 * kRows + r] = p;
  }
}

// mix += weight * value over the 32 keys, for the rows that see them.
template <class T, int kRows, int kChunks, class Seen>
__device__ void add_values(const T* values, const std::int64_t* places, const float* weights,
                           int dim, State<kRows, kChunks>& state, Seen&& seen) {
#pragma unroll 4
  for (int i = 0; i < 32; ++i) {
    const std::int64_t v = places[i];
    float x[kChunks];
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int d = threadIdx.x % 32 + 32 * c;
      x[c] = v >= 0 && d < dim ? to_float(values[v + d]) : 0.0f;
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!seen(i, r)) continue;
      const float p = weights[i * kRows + r];
#pragma unroll
      for (int c = 0; c < kChunks; ++c) state.mix[r][c] += p * x[c];
    }
  }
}

// T: of qkv and the result; C: of the cache.
template <class T, class C, int kRows, int kChunks>
__global__ void __launch_bounds__(32 * kWarps)
    paged_kernel(PagedShape s, Tiling tiling, const T* qkv, const C* keys, const C* values,
                 bool wide, T* out, float* mixes, float2* sums) {
  __shared__ __align__(16) float q[kRows * kMaxHeadDim];
  __shared__ __align__(16) float weights[kWarps][32 * kRows];
  __shared__ std::int64_t places[kWarps][32];
  __shared__ float2 states[kWarps][kRows];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = static_cast<int>(s.dim);
  // Rounded so that a sequence's tiles end where the next one's begin, or before: no two sequences
  // share one, and nobody has to count them.
  const auto first_tile = [&](std::int64_t i) {
    return (s.starts[i] + i * (tiling.tokens - 1)) / tiling.tokens;
  };
  const std::int64_t sequence = sequence_of(s, blockIdx.x, first_tile);
  const int fresh = new_tokens(s, sequence);
  const int first = static_cast<int>(blockIdx.x - first_tile(sequence)) * tiling.tokens;
  if (first >= fresh) return;
  const int kv = blockIdx.y / tiling.parts;
  const int group = static_cast<int>(s.heads / s.kv_heads);
  const int from_head = static_cast<int>(blockIdx.y % tiling.parts) * tiling.heads;
  const int heads = min(tiling.heads, group - from_head);
  const int rows = min(tiling.tokens, fresh - first) * heads;
  const std::int64_t token = s.starts[sequence] + first, head = kv * group + from_head;
  const int past = s.lengths[sequence] - fresh + first;  // tokens before this tile's

  for (int i = threadIdx.x; i < kRows * dim; i += blockDim.x) {
    const int r = i / dim;
    const std::int64_t row = (token + r / heads) * (s.heads + 2 * s.kv_heads) + head + r % heads;
    q[i] = r < rows ? to_float(qkv[row * dim + i % dim]) * (s.scale * kLog2E * s.key_scale) : 0.0f;
  }
  __syncthreads();

  State<kRows, kChunks> state;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    state.largest[r] = kLowest, state.sum[r] = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) state.mix[r][c] = 0;
  }
  // Every split has as many rounds of the block's warps, but for the last ones.
  const int all = past + (rows - 1) / heads + 1, splits = gridDim.z;
  const int share = (all + splits * 32 * kWarps - 1) / (splits * 32 * kWarps) * 32 * kWarps;
  const int begin = static_cast<int>(blockIdx.z) * share, end = min(all, begin + share);
  for (int tile = begin + 32 * warp; tile < end; tile += 32 * kWarps) {
    const int j = tile + lane;
    const std::int64_t place = j < end ? place_of(s, sequence, j) : -1;
    const std::int64_t at = (place * s.kv_heads + kv) * dim;
    float score[kRows] = {};
    if (place < 0) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) score[r] = CUDART_NAN_F;  // a missing page, or masked below
    } else if (wide) {
      add_products<kWide<C>>(q, keys + at, dim, score);
    } else {
      add_products<1>(q, keys + at, dim, score);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      if (j > past + r / heads || j >= end) score[r] = -CUDART_INF_F;
    weigh(score, state, weights[warp]);
    places[warp][lane] = place < 0 ? -1 : at;
    __syncwarp();
    // A later query's value is not even multiplied by 0: it may be NaN.
    if (tile + 31 <= past)
      add_values<C>(values, places[warp], weights[warp], dim, state, [](int, int) { return true; });
    else
      add_values<C>(values, places[warp], weights[warp], dim, state,
                    [&](int i, int r) { return tile + i <= past + r / heads; });
    __syncwarp();
  }

  // The warps' softmaxes become one, added up in `q`, warp after warp.
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float sum = warp_sum(state.sum[r]);
    if (lane == 0) states[warp][r] = make_float2(state.largest[r], sum);
  }
  __syncthreads();
  float2 total[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    total[r] = make_float2(kLowest, 0);
    for (int w = 0; w < kWarps; ++w) total[r].x = fmaxf(total[r].x, states[w][r].x);
    for (int w = 0; w < kWarps; ++w)
      total[r].y += states[w][r].y * exp2f(states[w][r].x - total[r].x);
  }
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float factor = exp2f(state.largest[r] - total[r].x);
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          const int d = lane + 32 * c;
          if (d < dim) q[r * dim + d] = (w == 0 ? 0 : q[r * dim + d]) + factor * state.mix[r][c];
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) break;
    const std::int64_t row = (token + r / heads) * s.heads + head + r % heads;
    if (splits == 1) {
      for (int d = threadIdx.x; d < dim; d += blockDim.x)
        store(out + row * dim + d, q[r * dim + d] * s.value_scale / total[r].y);
    } else {
      const std::int64_t partial = blockIdx.z * s.tokens * s.heads + row;
      for (int d = threadIdx.x; d < dim; d += blockDim.x)
        mixes[partial * dim + d] = q[r * dim + d] * s.value_scale;
      if (threadIdx.x == 0) sums[partial] = total[r];
    }
  }
}

// A warp a row: the splits' softmaxes become one.
template <class T>
__global__ void join_kernel(std::int64_t rows, int dim, int splits, const float* mixes,
                            const float2* sums, T* out) {
  const std::int64_t row = blockIdx.x * std::int64_t{kWarps} + threadIdx.x / 32;
  if (row >= rows) return;
  float largest = kLowest, total = 0;
  for (int i = 0; i < splits; ++i) largest = fmaxf(largest, sums[i * rows + row].x);
  for (int i = 0; i < splits; ++i)
    total += sums[i * rows + row].y * exp2f(sums[i * rows + row].x - largest);
  for (int d = threadIdx.x % 32; d < dim; d += 32) {
    float mix = 0;
    for (int i = 0; i < splits; ++i)
      mix += mixes[(i * rows + row) * dim + d] * exp2f(sums[i * rows + row].x - largest);
    store(out + row * dim + d, mix / total);
  }
}

Tiling tiling_of(const PagedShape& s) {
  const auto group = static_cast<int>(s.heads / s.kv_heads);
  const int heads = group < kMostPagedRows ? group : kMostPagedRows;
  const int tokens = static_cast<int>(
      s.longest_new < kMostPagedRows / heads ? s.longest_new : kMostPagedRows / heads);
  return {tokens < 1 ? 1 : tokens, heads, static_cast<int>(blocks_for(group, heads))};
}

std::int64_t tiles_of(const PagedShape& s, const Tiling& t) {
  return (s.tokens + s.sequences * (t.tokens - 1)) / t.tokens;  // first_tile of the end
}

template <class F>
void for_rows(int rows, F&& f) {
  if (rows == 1)
    f.template operator()<1>();
  else if (rows <= 4)
    f.template operator()<4>();
  else
    f.template operator()<kMostPagedRows>();
}

// Calls f<T, kRows, kChunks>().
template <class F>
void for_shape(Type type, int rows, std::int64_t dim, F&& f) {
  for_type(type, [&]<class T>() {
    for_rows(rows, [&]<int kRows>() {
      if (dim <= 64)
        f.template operator()<T, kRows, 2>();
      else if (dim <= 128)
        f.template operator()<T, kRows, 4>();
      else
        f.template operator()<T, kRows, kMaxHeadDim / 32>();
    });
  });
}

}  // namespace

int paged_attention_splits(const PagedShape& s) {
  const Tiling tiling = tiling_of(s);
  // Four blocks a processor hide what memory takes; a split in two that fills less gains nothing.
  const std::int64_t blocks = tiles_of(s, tiling) * s.kv_heads * tiling.parts;
  const std::int64_t wanted = 4 * processors_of_device() / (blocks > 0 ? blocks : 1);
  const std::int64_t most = blocks_for(s.longest, kSplitKeys);
  const std::int64_t splits = wanted < most ? wanted : most;
  return splits < 1 ? 1 : static_cast<int>(splits);
}

void paged_attention(Type type, const PagedShape& s, const void* qkv, void* keys, void* values,
                     int splits, float* partial, void* out, cudaStream_t stream) {
  if (s.tokens == 0) return;
  const Tiling tiling = tiling_of(s);
  const std::int64_t rows = s.tokens * s.heads;
  // Sums first: they are the pairs, which must lie aligned.
  auto* sums = reinterpret_cast<float2*>(partial);
  float* mixes = partial + 2 * rows * splits;
  const dim3 grid(static_cast<unsigned>(tiles_of(s, tiling)),
                  static_cast<unsigned>(s.kv_heads * tiling.parts), static_cast<unsigned>(splits));
  for_shape(type, tiling.tokens * tiling.heads, s.dim, [&]<class T, int kRows, int kChunks>() {
    const T* in = static_cast<const T*>(qkv);
    T* y = static_cast<T*>(out);
    if (!decode_attention(type, s, qkv, keys, values, splits, mixes, sums, out, stream))
      for_cache<T>(s, [&]<class C>() {
        C *k = static_cast<C*>(keys), *v = static_cast<C*>(values);
        const bool wide = s.dim % kWide<C> == 0 && reinterpret_cast<std::uintptr_t>(k) % 16 == 0;
        store_kernel<<<static_cast<unsigned>(s.tokens), 128, 0, stream>>>(s, in, k, v);
        paged_kernel<T, C, kRows, kChunks>
            <<<grid, 32 * kWarps, 0, stream>>>(s, tiling, in, k, v, wide, y, mixes, sums);
      });
    if (splits > 1)
      join_kernel<<<static_cast<unsigned>(blocks_for(rows, kWarps)), 32 * kWarps, 0, stream>>>(
          rows, static_cast<int>(s.dim), splits, mixes, sums, y);
  });
}

}  // namespace qad::cuda
