// Causal attention within packed documents, plainly: a warp a query forward, a warp a query and
// then a warp a key backward, 32 partners at a time. For what flash attention does not take (FP32,
// odd head sizes): right for every shape, not fast.
#include <math_constants.h>

#include "cuda/launch.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kChunks = kMaxHeadDim / 32;  // a lane owns the dimensions lane, lane + 32, ...

using Vector = float[kMaxHeadDim];

// What the kernels read; T is the type in memory.
template <class T>
struct Heads {
  const T *qkv, *grad;  // grad: of the output; null in the forward pass
  AttentionShape s;

  __device__ int dim() const { return static_cast<int>(s.dim); }
  __device__ const T* query(std::int64_t token, std::int64_t head) const {
    return qkv + (token * (s.heads + 2 * s.kv_heads) + head) * s.dim;
  }
  __device__ const T* key(std::int64_t token, std::int64_t kv) const {
    return query(token, s.heads + kv);
  }
  __device__ const T* value(std::int64_t token, std::int64_t kv) const {
    return query(token, s.heads + s.kv_heads + kv);
  }
  __device__ const T* output_grad(std::int64_t token, std::int64_t head) const {
    return grad + (token * s.heads + head) * s.dim;
  }
  // The document of a token: the last one that starts at it or before.
  __device__ std::int64_t document(std::int64_t token) const {
    std::int64_t low = 0, high = s.documents;
    while (high - low > 1) {
      const std::int64_t middle = (low + high) / 2;
      (s.starts[middle] <= token ? low : high) = middle;
    }
    return low;
  }
};

template <class T>
__device__ void fetch(const T* from, int dim, float* to) {
  for (int d = threadIdx.x % 32; d < dim; d += 32) to[d] = to_float(from[d]);
}

template <class T>
__device__ float dot(const float* a, const T* b, int dim) {
  float sum = 0;
  for (int d = 0; d < dim; ++d) sum += a[d] * to_float(b[d]);
  return sum;
}

// sum[c] += factor * x, a lane's own dimensions.
template <class T>
__device__ void add(float (&sum)[kChunks], float factor, const T* x, int dim) {
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int d = threadIdx.x % 32 + 32 * c;
    if (d < dim) sum[c] += factor * to_float(x[d]);
  }
}

template <class T>
__device__ void put(const float (&sum)[kChunks], float factor, T* to, int dim) {
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int d = threadIdx.x % 32 + 32 * c;
    if (d < dim) store(to + d, factor * sum[c]);
  }
}

template <class T>
__global__ void attention_kernel(Heads<T> in, T* out, float* lse) {
  __shared__ Vector queries[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = in.dim();
  const std::int64_t t = blockIdx.x * std::int64_t{kWarps} + warp, head = blockIdx.y;
  if (t >= in.s.tokens) return;
  const std::int64_t kv = head / (in.s.heads / in.s.kv_heads);
  float* q = queries[warp];
  fetch(in.query(t, head), dim, q);
  __syncwarp();
  float largest = -CUDART_INF_F, sum = 0, mix[kChunks] = {};
  for (std::int64_t first = in.s.starts[in.document(t)]; first <= t; first += 32) {
    const std::int64_t j = first + lane;
    const float score = j <= t ? dot(q, in.key(j, kv), dim) * in.s.scale : -CUDART_INF_F;
    const float before = largest;
    largest = fmaxf(largest, warp_max(score));
    const float p = expf(score - largest), shrink = expf(before - largest);
    sum = sum * shrink + warp_sum(p);
    for (int c = 0; c < kChunks; ++c) mix[c] *= shrink;
    for (int i = 0; i < 32 && first + i <= t; ++i)
      add(mix, __shfl_sync(kAllLanes, p, i), in.value(first + i, kv), dim);
  }
  put(mix, 1 / sum, out + (t * in.s.heads + head) * in.s.dim, dim);
  if (lane == 0) lse[head * in.s.tokens + t] = largest + logf(sum);
}

// With p the probabilities, dp = grad . v and delta = sum p dp: dq = scale sum p (dp - delta) k.
template <class T>
__global__ void attention_queries_kernel(Heads<T> in, const float* lse, T* dqkv, float* delta) {
  __shared__ Vector queries[kWarps], grads[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = in.dim();
  const std::int64_t t = blockIdx.x * std::int64_t{kWarps} + warp, head = blockIdx.y;
  if (t >= in.s.tokens) return;
  const std::int64_t kv = head / (in.s.heads / in.s.kv_heads);
  float *q = queries[warp], *g = grads[warp];
  fetch(in.query(t, head), dim, q);
  fetch(in.output_grad(t, head), dim, g);
  __syncwarp();
  const std::int64_t start = in.s.starts[in.document(t)];
  const float log_sum = lse[head * in.s.tokens + t];
  const auto probability = [&](std::int64_t j) {
    return j <= t ? expf(dot(q, in.key(j, kv), dim) * in.s.scale - log_sum) : 0.0f;
  };
  float mean = 0;
  for (std::int64_t j = start + lane; j <= t; j += 32)
    mean += probability(j) * dot(g, in.value(j, kv), dim);
  mean = warp_sum(mean);
  float dq[kChunks] = {};
  for (std::int64_t first = start; first <= t; first += 32) {
    const std::int64_t j = first + lane;
    const float ds = j <= t ? probability(j) * (dot(g, in.value(j, kv), dim) - mean) : 0.0f;
    for (int i = 0; i < 32 && first + i <= t; ++i)
      add(dq, __shfl_sync(kAllLanes, ds, i), in.key(first + i, kv), dim);
  }
  put(dq, in.s.scale, dqkv + (in.query(t, head) - in.qkv), dim);
  if (lane == 0) delta[head * in.s.tokens + t] = mean;
}

// dk = scale sum p (dp - delta) q and dv = sum p grad, over the later queries of all heads that
// read this key.
template <class T>
__global__ void attention_keys_kernel(Heads<T> in, const float* lse, const float* delta, T* dqkv) {
  __shared__ Vector keys[kWarps], values[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = in.dim();
  const std::int64_t j = blockIdx.x * std::int64_t{kWarps} + warp, kv = blockIdx.y;
  if (j >= in.s.tokens) return;
  const std::int64_t group = in.s.heads / in.s.kv_heads, end = in.s.starts[in.document(j) + 1];
  float *k = keys[warp], *v = values[warp];
  fetch(in.key(j, kv), dim, k);
  fetch(in.value(j, kv), dim, v);
  __syncwarp();
  float dk[kChunks] = {}, dv[kChunks] = {};
  for (std::int64_t head = kv * group; head < (kv + 1) * group; ++head)
    for (std::int64_t first = j; first < end; first += 32) {
      const std::int64_t t = first + lane, at = head * in.s.tokens + t;
      float p = 0, ds = 0;
      if (t < end) {
        p = expf(dot(k, in.query(t, head), dim) * in.s.scale - lse[at]);
        ds = p * (dot(v, in.output_grad(t, head), dim) - delta[at]);
      }
      for (int i = 0; i < 32 && first + i < end; ++i) {
        add(dk, __shfl_sync(kAllLanes, ds, i), in.query(first + i, head), dim);
        add(dv, __shfl_sync(kAllLanes, p, i), in.output_grad(first + i, head), dim);
      }
    }
  put(dk, in.s.scale, dqkv + (in.key(j, kv) - in.qkv), dim);
  put(dv, 1, dqkv + (in.value(j, kv) - in.qkv), dim);
}

dim3 grid(const AttentionShape& s, std::int64_t heads) {
  return dim3(static_cast<unsigned>(blocks_for(s.tokens, kWarps)), static_cast<unsigned>(heads));
}

}  // namespace

void attention(Type type, const AttentionShape& s, const void* qkv, void* out, float* lse,
               cudaStream_t stream) {
  if (s.tokens == 0) return;
  for_type(type, [&]<class T>() {
    const Heads<T> in{static_cast<const T*>(qkv), nullptr, s};
    attention_kernel<<<grid(s, s.heads), 32 * kWarps, 0, stream>>>(in, static_cast<T*>(out), lse);
  });
}

void attention_backward(Type type, const AttentionShape& s, const void* grad, const void* qkv,
                        const float* lse, void* dqkv, float* delta, cudaStream_t stream) {
  if (s.tokens == 0) return;
  for_type(type, [&]<class T>() {
    const Heads<T> in{static_cast<const T*>(qkv), static_cast<const T*>(grad), s};
    T* out = static_cast<T*>(dqkv);
    attention_queries_kernel<<<grid(s, s.heads), 32 * kWarps, 0, stream>>>(in, lse, out, delta);
    attention_keys_kernel<<<grid(s, s.kv_heads), 32 * kWarps, 0, stream>>>(in, lse, delta, out);
  });
}

}  // namespace qad::cuda
