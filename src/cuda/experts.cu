// A mixture of experts on CUDA but for its products: the router's choice, rows into the order of
// experts and back, squared ReLU.
#include <cmath>

#include "cuda/experts.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kThreads = 256, kWarp = 32;
constexpr float kTiny = 1e-20f;  // beside the sum of the chosen scores, as the models have it

// A thread has a token. As ops/router.cpp, which says how ties end; scores are where logits were.
struct Row {
  float* score;
  const float* bias;
  __device__ float value(std::int64_t e) const { return bias ? score[e] + bias[e] : score[e]; }
};

__device__ void softmax_of(float* row, std::int64_t n) {
  float largest = row[0];
  for (std::int64_t e = 1; e < n; ++e) largest = fmaxf(largest, row[e]);
  float sum = 0;
  for (std::int64_t e = 0; e < n; ++e) sum += row[e] = expf(row[e] - largest);
  for (std::int64_t e = 0; e < n; ++e) row[e] /= sum;
}

// Bit i of set.
struct Set {
  unsigned words[16] = {};
  __device__ bool has(std::int64_t i) const { return words[i / 32] >> (i % 32) & 1; }
  __device__ void add(std::int64_t i) { words[i / 32] |= 1u << (i % 32); }
};
constexpr std::int64_t kMostExperts = 512;
static_assert(kMostExperts == kMostGroups && sizeof(Set) * 8 == kMostExperts);

// The groups that are eligible: those whose two best experts add up to most.
__device__ void choose_groups(const Router& r, const Row& row, Set& eligible) {
  const std::int64_t size = r.experts / r.groups;
  for (std::int64_t i = 0; i < r.top_groups; ++i) {
    std::int64_t best = -1;
    float best_sum = 0;
    for (std::int64_t g = 0; g < r.groups; ++g) {
      if (eligible.has(g)) continue;
      float first = -INFINITY, second = -INFINITY;
      for (std::int64_t e = g * size; e < (g + 1) * size; ++e) {
        const float v = row.value(e);
        second = fmaxf(second, fminf(first, v));
        first = fmaxf(first, v);
      }
      if (best < 0 || first + second > best_sum) best = g, best_sum = first + second;
    }
    eligible.add(best);
  }
}

__global__ void route_kernel(Router r, float* logits, float* weights, std::int32_t* chosen,
                             float* scores) {
  const std::int64_t t = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (t >= r.tokens) return;
  const Row row{logits + t * r.experts, r.bias};
  if (r.softmax)
    softmax_of(row.score, r.experts);
  else
    for (std::int64_t e = 0; e < r.experts; ++e) row.score[e] = 1 / (1 + expf(-row.score[e]));
  Set groups, taken;
  const std::int64_t size = r.experts / r.groups;
  if (r.groups > 1) choose_groups(r, row, groups);
  float sum = kTiny;
  for (std::int64_t j = t * r.top_k; j < (t + 1) * r.top_k; ++j) {
    std::int64_t best = -1;
    float value = 0;
    for (std::int64_t e = 0; e < r.experts; ++e) {
      if (taken.has(e) || (r.groups > 1 && !groups.has(e / size))) continue;
      const float v = row.value(e);
      if (best < 0 || v > value) best = e, value = v;
    }
    taken.add(best);
    chosen[j] = static_cast<std::int32_t>(best);
    scores[j] = row.score[best];
    sum += scores[j];
  }
  const float factor = r.scale / (r.normalize ? sum : 1.0f);
  for (std::int64_t j = t * r.top_k; j < (t + 1) * r.top_k; ++j) weights[j] = scores[j] * factor;
}

// ops/router.cpp has the formulas.
__global__ void route_backward_kernel(Router r, const float* g, const std::int32_t* chosen,
                                      const float* s, float* all, float* dlogits) {
  const std::int64_t t = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (t >= r.tokens) return;
  float* to = dlogits + t * r.experts;
  const std::int64_t begin = t * r.top_k, end = begin + r.top_k;
  float sum = kTiny, along = 0, mean = 0;
  for (std::int64_t j = begin; j < end; ++j) {
    sum += s[j];
    along += g[j] * s[j];
  }
  const auto dscore = [&](std::int64_t j) {
    return r.normalize ? r.scale * (g[j] - along / sum) / sum : r.scale * g[j];
  };
  for (std::int64_t j = begin; j < end; ++j) mean += dscore(j) * s[j];
  if (r.softmax) softmax_of(all + t * r.experts, r.experts);
  for (std::int64_t e = 0; e < r.experts; ++e)
    to[e] = r.softmax ? -all[t * r.experts + e] * mean : 0.0f;
  for (std::int64_t j = begin; j < end; ++j)
    to[chosen[j]] += r.softmax ? dscore(j) * s[j] : dscore(j) * s[j] * (1 - s[j]);
}

__global__ void expert_rows_kernel(const std::int32_t* sorted, const std::int64_t* from,
                                   std::int64_t count, std::int64_t experts, std::int32_t* rows,
                                   std::int32_t* choices, std::int32_t* offsets) {
  const std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (i > count) return;
  // Experts that begin here: those after the row before, up to this row's.
  const std::int64_t first = i == 0 ? 0 : min(experts, std::int64_t{sorted[i - 1]} + 1);
  const std::int64_t last = i == count ? experts : min(experts, std::int64_t{sorted[i]});
  for (std::int64_t e = first; e <= last; ++e) offsets[e] = static_cast<std::int32_t>(i);
  if (i == count) return;
  choices[i] = static_cast<std::int32_t>(from[i]);
  rows[from[i]] = static_cast<std::int32_t>(i);
}

// Threads along a row's vectors; a row that is not there is left alone, or adds nothing.
template <class T, int N>
__global__ void gather_kernel(const T* x, const std::int32_t* rows, std::int64_t k,
                              std::int64_t cols, T* out) {
  const std::int64_t choice = blockIdx.x, count = gridDim.x, row = rows[choice];
  if (row < 0 || row >= count) return;
  for (std::int64_t i = threadIdx.x * N; i < cols; i += blockDim.x * N) {
    float v[N];
    load(x + choice / k * cols + i, v);
    store(out + row * cols + i, v);
  }
}

template <class T, int N>
__global__ void combine_kernel(const T* y, const float* weights, const std::int32_t* rows,
                               const T* addend, std::int64_t k, std::int64_t cols, T* out) {
  const std::int64_t t = blockIdx.x, count = gridDim.x * k;
  for (std::int64_t i = threadIdx.x * N; i < cols; i += blockDim.x * N) {
    float sum[N] = {};
    if (addend) load(addend + t * cols + i, sum);
    for (std::int64_t j = t * k; j < (t + 1) * k; ++j) {
      if (rows[j] < 0 || rows[j] >= count) continue;
      float v[N];
      load(y + rows[j] * cols + i, v);
      const float by = weights ? weights[j] : 1.0f;
#pragma unroll
      for (int n = 0; n < N; ++n) sum[n] = fmaf(by, v[n], sum[n]);
    }
    store(out + t * cols + i, sum);
  }
}

// A warp has a choice of a token.
template <class T, int N>
__global__ void combine_backward_kernel(const T* grad, const T* y, const float* weights,
                                        const std::int32_t* rows, std::int64_t count,
                                        std::int64_t k, std::int64_t cols, T* dy, float* dweights) {
  const std::int64_t j = (blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x) / kWarp;
  if (j >= count) return;
  const std::int64_t row = rows[j];
  if (row < 0 || row >= count) return;
  const int lane = threadIdx.x % kWarp;
  float sum = 0;
  for (std::int64_t i = lane * N; i < cols; i += kWarp * N) {
    float g[N], v[N];
    load(grad + j / k * cols + i, g);
    load(y + row * cols + i, v);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      sum = fmaf(g[n], v[n], sum);
      g[n] *= weights[j];
    }
    store(dy + row * cols + i, g);
  }
  sum = warp_sum(sum);
  if (lane == 0) dweights[j] = sum;
}

// A NaN stays one.
__device__ float relu(float x) {
  return x < 0 ? 0.0f : x;
}

template <class T, int N>
__global__ void relu2_kernel(const T* x, std::int64_t n, T* y) {
  const std::int64_t i = (blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x) * N;
  if (i >= n) return;
  float v[N];
  load(x + i, v);
#pragma unroll
  for (int k = 0; k < N; ++k) v[k] = relu(v[k]) * relu(v[k]);
  store(y + i, v);
}

// dx = 2 max(x, 0) dy
template <class T, int N>
__global__ void relu2_backward_kernel(const T* grad, const T* x, std::int64_t n, T* dx) {
  const std::int64_t i = (blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x) * N;
  if (i >= n) return;
  float v[N], g[N];
  load(x + i, v);
  load(grad + i, g);
#pragma unroll
  for (int k = 0; k < N; ++k) v[k] = 2 * relu(v[k]) * g[k];
  store(dx + i, v);
}

unsigned blocks_of(std::int64_t items, std::int64_t per_block = kThreads) {
  return static_cast<unsigned>(blocks_for(items, per_block));
}

}  // namespace

void route(const Router& r, float* logits, float* weights, std::int32_t* chosen, float* scores,
           cudaStream_t stream) {
  if (r.tokens == 0) return;
  route_kernel<<<blocks_of(r.tokens, 64), 64, 0, stream>>>(r, logits, weights, chosen, scores);
}

void route_backward(const Router& r, const float* grad, const std::int32_t* chosen,
                    const float* scores, float* all, float* dlogits, cudaStream_t stream) {
  if (r.tokens == 0) return;
  route_backward_kernel<<<blocks_of(r.tokens, 64), 64, 0, stream>>>(r, grad, chosen, scores, all,
                                                                    dlogits);
}

void expert_rows(const std::int32_t* sorted, const std::int64_t* from, std::int64_t count,
                 std::int64_t experts, std::int32_t* rows, std::int32_t* choices,
                 std::int32_t* offsets, cudaStream_t stream) {
  expert_rows_kernel<<<blocks_of(count + 1), kThreads, 0, stream>>>(sorted, from, count, experts,
                                                                    rows, choices, offsets);
}

void gather_rows(Type type, const void* x, const std::int32_t* rows, std::int64_t tokens,
                 std::int64_t k, std::int64_t cols, void* out, cudaStream_t stream) {
  if (tokens * k * cols == 0) return;
  for_vectors(
      type, cols,
      [&]<class T, int N>() {
        gather_kernel<T, N><<<static_cast<unsigned>(tokens * k), kThreads / 2, 0, stream>>>(
            static_cast<const T*>(x), rows, k, cols, static_cast<T*>(out));
      },
      x, out);
}

void combine_rows(Type type, const void* y, const float* weights, const std::int32_t* rows,
                  const void* addend, std::int64_t tokens, std::int64_t k, std::int64_t cols,
                  void* out, cudaStream_t stream) {
  if (tokens * cols == 0) return;
  for_vectors(
      type, cols,
      [&]<class T, int N>() {
        combine_kernel<T, N><<<static_cast<unsigned>(tokens), kThreads / 2, 0, stream>>>(
            static_cast<const T*>(y), weights, rows, static_cast<const T*>(addend), k, cols,
            static_cast<T*>(out));
      },
      y, addend, out);
}

void combine_rows_backward(Type type, const void* grad, const void* y, const float* weights,
                           const std::int32_t* rows, std::int64_t tokens, std::int64_t k,
                           std::int64_t cols, void* dy, float* dweights, cudaStream_t stream) {
  if (tokens * k == 0) return;
  for_vectors(
      type, cols,
      [&]<class T, int N>() {
        combine_backward_kernel<T, N>
            <<<blocks_of(tokens * k, kThreads / kWarp), kThreads, 0, stream>>>(
                static_cast<const T*>(grad), static_cast<const T*>(y), weights, rows, tokens * k, k,
                cols, static_cast<T*>(dy), dweights);
      },
      grad, y, dy);
}

void relu2(Type type, const void* x, std::int64_t n, void* y, cudaStream_t stream) {
  if (n == 0) return;
  for_vectors(
      type, n,
      [&]<class T, int N>() {
        relu2_kernel<T, N><<<blocks_of(n, kThreads * N), kThreads, 0, stream>>>(
            static_cast<const T*>(x), n, static_cast<T*>(y));
      },
      x, y);
}

void relu2_backward(Type type, const void* grad, const void* x, std::int64_t n, void* dx,
                    cudaStream_t stream) {
  if (n == 0) return;
  for_vectors(
      type, n,
      [&]<class T, int N>() {
        relu2_backward_kernel<T, N><<<blocks_of(n, kThreads * N), kThreads, 0, stream>>>(
            static_cast<const T*>(grad), static_cast<const T*>(x), n, static_cast<T*>(dx));
      },
      grad, x, dx);
}

}  // namespace qad::cuda
