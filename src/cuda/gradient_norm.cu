// The norm of many tensors together: a block a fixed share of one tensor, as many tensors a launch
// as its arguments hold, and one block that adds the shares in their order. Squares are summed in
// FP64, as on the CPU: an FP32 square of a gradient above 2^64 would be infinite.
#include <algorithm>
#include <cmath>

#include "cuda/launch.h"
#include "cuda/reduce.cuh"
#include "cuda/tables.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kThreads = 256, kLastThreads = 1024;
constexpr std::int64_t kShare = 32768;  // elements of a block
constexpr int kTensors = 256;

struct Shares {
  Values of[kTensors];
  std::int32_t first[kTensors + 1];
  int tensors;
};

template <class T>
__device__ double sum_of_squares(const T* x, std::int64_t n) {
  constexpr int N = kWide<T>;
  double sums[N] = {};
  const bool wide = reinterpret_cast<std::uintptr_t>(x) % 16 == 0;
  const std::int64_t whole = wide ? n / N * N : 0;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x * N; i < whole; i += kThreads * N) {
    float v[N];
    load(x + i, v);
#pragma unroll
    for (int k = 0; k < N; ++k) sums[k] += static_cast<double>(v[k]) * static_cast<double>(v[k]);
  }
  for (std::int64_t i = whole + threadIdx.x; i < n; i += kThreads) {
    const double v = to_float(x[i]);
    sums[0] += v * v;
  }
  double sum = 0;
#pragma unroll
  for (int k = 0; k < N; ++k) sum += sums[k];
  return sum;
}

__global__ void __launch_bounds__(kThreads)
    shares_kernel(const __grid_constant__ Shares shares, double* partials) {
  __shared__ double scratch[32];
  const int block = static_cast<int>(blockIdx.x), t = tensor_of_block(shares);
  const Values& values = shares.of[t];
  const std::int64_t begin = (block - shares.first[t]) * kShare;
  const std::int64_t n = min(kShare, static_cast<long>(values.n - begin));
  const double sum =
      values.type == Type::bf16
          ? sum_of_squares(static_cast<const __nv_bfloat16*>(values.data) + begin, n)
          : sum_of_squares(static_cast<const float*>(values.data) + begin, n);
  const double total = block_sum(sum, scratch);
  if (threadIdx.x == 0) partials[block] = total;
}

__global__ void root_kernel(const double* partials, std::int64_t n, double* norm) {
  __shared__ double scratch[32];
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kLastThreads) sum += partials[i];
  const double total = block_sum(sum, scratch);
  if (threadIdx.x == 0) *norm = sqrt(total);
}

}  // namespace

std::int64_t norm_partials(std::span<const Values> grads) {
  std::int64_t blocks = 0;
  for (const Values& v : grads) blocks += blocks_for(v.n, kShare);
  return blocks;
}

void gradient_norm(std::span<const Values> grads, double* partials, double* norm,
                   cudaStream_t stream) {
  std::int64_t done = 0;
  const auto alike = [](const Values&, const Values&) { return true; };
  for_tables<Shares>(grads, alike, [&](Shares& shares) {
    for (int t = 0; t < shares.tensors; ++t)
      shares.first[t + 1] =
          shares.first[t] + static_cast<std::int32_t>(blocks_for(shares.of[t].n, kShare));
    const std::int32_t blocks = shares.first[shares.tensors];
    if (blocks == 0) return;
    shares_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(shares, partials + done);
    done += blocks;
  });
  root_kernel<<<1, kLastThreads, 0, stream>>>(partials, done, norm);
}

}  // namespace qad::cuda
