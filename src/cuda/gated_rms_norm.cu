// The norm behind Mamba's scan, y silu(z) by the root mean square of its group of columns: a warp a
// row and group forward; backward a block walks down rows, so that it can sum the weight's
// gradient.
#include "cuda/mamba.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kThreads = 256, kWarp = 32;
constexpr std::int64_t kRows = 64;  // of a block on the way back

__device__ float silu(float z) {
  return z / (1.0f + expf(-z));
}

template <class T>
__global__ void norm_kernel(GatedNorm n, float eps, T* out, float* inverse) {
  const std::int64_t task = (blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x) / kWarp;
  if (task >= n.rows * n.groups) return;
  const std::int64_t row = task / n.groups, width = n.cols / n.groups;
  const std::int64_t first = task % n.groups * width;
  const int lane = threadIdx.x % kWarp;
  const T* y = static_cast<const T*>(n.y.data) + row * n.y.stride + first;
  const T* z = static_cast<const T*>(n.z.data) + row * n.z.stride + first;
  const T* weight = static_cast<const T*>(n.weight) + first;
  T* to = out + row * n.cols + first;
  float squares = 0;
  for (std::int64_t i = lane; i < width; i += kWarp) {
    const float gated = to_float(y[i]) * silu(to_float(z[i]));
    squares = fmaf(gated, gated, squares);
  }
  const float by = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(width) + eps);
  if (lane == 0) inverse[task] = by;
  for (std::int64_t i = lane; i < width; i += kWarp)
    store(to + i, to_float(weight[i]) * (to_float(y[i]) * silu(to_float(z[i])) * by));
}

// With n = y silu(z), r = 1/rms, h = grad * w: dn = r (h - n r^2 mean(n h)), dy = dn silu(z), dz =
// dn y silu'(z), dw the sum over rows of grad n r.
template <class T>
__global__ void __launch_bounds__(kThreads)
    norm_backward_kernel(GatedNorm n, const T* grad, const float* inverse, T* dy, T* dz,
                         float* partial) {
  __shared__ float scratch[2][kWarp];
  const std::int64_t group = blockIdx.y, width = n.cols / n.groups, first = group * width;
  const std::int64_t begin = blockIdx.x * kRows, end = min(begin + kRows, n.rows);
  const T* weight = static_cast<const T*>(n.weight) + first;
  float* sums = partial + blockIdx.x * n.cols + first;
  for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) sums[i] = 0;
  for (std::int64_t row = begin; row < end; ++row) {
    const T* y = static_cast<const T*>(n.y.data) + row * n.y.stride + first;
    const T* z = static_cast<const T*>(n.z.data) + row * n.z.stride + first;
    const std::int64_t at = row * n.cols + first;
    const float r = inverse[row * n.groups + group];
    float products = 0;
    for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) {
      const float gn = to_float(grad[at + i]) * (to_float(y[i]) * silu(to_float(z[i])));
      products = fmaf(gn, to_float(weight[i]), products);
      sums[i] = fmaf(gn, r, sums[i]);  // this thread's alone
    }
    const float c = r * r * (block_sum(products, scratch[row % 2]) / static_cast<float>(width));
    for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) {
      const float v = to_float(z[i]), s = 1.0f / (1.0f + expf(-v)), gate = v * s;
      const float in = to_float(y[i]);
      const float dn = r * (to_float(grad[at + i]) * to_float(weight[i]) - c * (in * gate));
      store(dy + at + i, dn * gate);
      store(dz + at + i, dn * in * (s * fmaf(v, 1.0f - s, 1.0f)));
    }
  }
}

}  // namespace

void gated_rms_norm(const GatedNorm& n, float eps, void* out, float* inverse, cudaStream_t stream) {
  if (n.rows * n.cols == 0) return;
  const auto blocks = static_cast<unsigned>(blocks_for(n.rows * n.groups, kThreads / kWarp));
  for_type(n.type, [&]<class T>() {
    norm_kernel<T><<<blocks, kThreads, 0, stream>>>(n, eps, static_cast<T*>(out), inverse);
  });
}

std::int64_t gated_norm_partials(std::int64_t rows) {
  return blocks_for(rows, kRows);
}

void gated_rms_norm_backward(const GatedNorm& n, const void* grad, const float* inverse, void* dy,
                             void* dz, float* partial, cudaStream_t stream) {
  if (n.rows * n.cols == 0) return;
  const dim3 grid(static_cast<unsigned>(gated_norm_partials(n.rows)),
                  static_cast<unsigned>(n.groups));
  for_type(n.type, [&]<class T>() {
    norm_backward_kernel<T><<<grid, kThreads, 0, stream>>>(
        n, static_cast<const T*>(grad), inverse, static_cast<T*>(dy), static_cast<T*>(dz), partial);
  });
}

}  // namespace qad::cuda
