// Root-mean-square norm, with the residual sum before it and the quantisation after it. Rows that
// fit into registers are read once: a warp takes a row, or as many warps as it needs. Others, and
// rows that cannot be read 16 bytes at a time, are read twice.
#include "cuda/early.cuh"
#include "cuda/quantize.cuh"
#include "cuda/rms_norm_rows.cuh"

namespace qad::cuda {
namespace {

// blockDim.x threads a row, blockDim.y rows a block (one, if a row takes several warps).
template <class T, int N, int V, bool kQuantize>
__global__ void __launch_bounds__(kMaxRowThreads)
    rms_norm_kernel(const T* __restrict__ x, const T* __restrict__ delta,
                    const T* __restrict__ weight, float eps, std::int64_t rows, int cols,
                    Format format, T* __restrict__ sum, T* __restrict__ y, float* inverse) {
  __shared__ float scratch[32];
  let_next_begin();
  float v[V][N];
  Raw<T, N> w_raw[V];  // read before the rest, not after the sum
  load_raw_row<T, N>(weight, cols, w_raw);
  wait_for_previous();
  const std::int64_t row = blockIdx.x * std::int64_t{blockDim.y} + threadIdx.y, at = row * cols;
  if (row >= rows) return;
  load_row(x + at, cols, v);
  if (delta != nullptr) {
    float d[V][N];
    load_row(delta + at, cols, d);
    for_vectors_of<N, V>(cols, [&](int j, int i) {
#pragma unroll
      for (int k = 0; k < N; ++k) v[j][k] = __fadd_rn(v[j][k], d[j][k]);
      round_to<T>(v[j]);
      store(sum + at + i, v[j]);
    });
  }
  float squares = 0;
#pragma unroll
  for (int j = 0; j < V; ++j)
#pragma unroll
    for (int k = 0; k < N; ++k) squares = __fmaf_rn(v[j][k], v[j][k], squares);
  const float r = 1.0f / sqrtf(row_sum(squares, scratch) / static_cast<float>(cols) + eps);
  if (threadIdx.x == 0) inverse[row] = r;
  unsigned clipped = 0;
  for_vectors_of<N, V>(cols, [&](int j, int i) {
    float w[N];
    unpack<T>(w_raw[j], w);
#pragma unroll
    for (int k = 0; k < N; ++k) v[j][k] = __fmul_rn(w[k], __fmul_rn(v[j][k], r));
    if constexpr (kQuantize) {
      round_to<T>(v[j]);
      clipped += quantize<nvfp4::BlockScale::max>(v[j], format);
    }
    store(y + at + i, v[j]);
  });
  if constexpr (kQuantize) add_clipped(format, clipped);
}

// With r = 1/rms and h = grad * w: dx = r h - x r^3 mean(h x), dw = sum over rows of grad * x * r.
// A thread keeps the sums of its columns over the rows that it takes, one of every gridDim.x *
// blockDim.y. A row's values stay as they came, so that all of them can be on their way at once.
template <class T, int N, int V>
__global__ void __launch_bounds__(kMaxRowThreads)
    rms_norm_backward_kernel(const T* __restrict__ grad, const T* __restrict__ beside,
                             const T* __restrict__ x, const T* __restrict__ weight,
                             const float* __restrict__ inverse, std::int64_t rows, int cols,
                             T* __restrict__ dx, float* __restrict__ partial) {
  extern __shared__ float others[];  // sums of half of the rows' threads: [row][vector][k][thread]
  __shared__ float scratch[2][32];
  float dw[V][N] = {};
  int turn = 0;
  const std::int64_t step = gridDim.x * std::int64_t{blockDim.y};
  // The same number of turns for all threads of a block, which may have to wait for each other.
  for (std::int64_t first = blockIdx.x * std::int64_t{blockDim.y}; first < rows;
       first += step, turn ^= 1) {
    const std::int64_t row = first + threadIdx.y, at = row * cols;
    const int here = row < rows ? cols : 0;
    Raw<T, N> g_raw[V], a_raw[V], b_raw[V];
    load_raw_row<T, N>(grad + at, here, g_raw);
    load_raw_row<T, N>(x + at, here, a_raw);
    if (beside != nullptr) load_raw_row<T, N>(beside + at, here, b_raw);
    const float r = row < rows ? inverse[row] : 0.0f;
    float products = 0;
    for_vectors_of<N, V>(here, [&](int j, int i) {
      float g[N], a[N], w[N];
      unpack<T>(g_raw[j], g);
      unpack<T>(a_raw[j], a);
      load(weight + i, w);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float gx = g[k] * a[k];
        products += gx * w[k];
        dw[j][k] += gx * r;
      }
    });
    const float c = r * r * (row_sum(products, scratch[turn]) / static_cast<float>(cols));
    for_vectors_of<N, V>(here, [&](int j, int i) {
      float g[N], a[N], w[N], b[N] = {};
      unpack<T>(g_raw[j], g);
      unpack<T>(a_raw[j], a);
      load(weight + i, w);
      if (beside != nullptr) unpack<T>(b_raw[j], b);
#pragma unroll
      for (int k = 0; k < N; ++k) b[k] += r * (g[k] * w[k] - c * a[k]);
      store(dx + at + i, b);
    });
  }
  // The rows of a block in pairs, pairs of pairs, ...; a number that is no power of two as if the
  // missing ones were zeros.
  int above = 1;
  while (above < blockDim.y) above *= 2;
  for (above /= 2; above > 0; above /= 2) {
    float* place = others + ((threadIdx.y % above) * V * N) * blockDim.x + threadIdx.x;
    const bool gives = threadIdx.y >= above && threadIdx.y < 2 * above;
    const bool takes = threadIdx.y + above < min(2 * above, static_cast<int>(blockDim.y));
    __syncthreads();
#pragma unroll
    for (int j = 0; j < V; ++j)
#pragma unroll
      for (int k = 0; k < N; ++k)
        if (gives) place[(j * N + k) * blockDim.x] = dw[j][k];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < V; ++j)
#pragma unroll
      for (int k = 0; k < N; ++k)
        if (takes) dw[j][k] += place[(j * N + k) * blockDim.x];
  }
  if (threadIdx.y > 0) return;
  for_vectors_of<N, V>(cols, [&](int j, int i) {
#pragma unroll
    for (int k = 0; k < N; k += 4) {
      const float4 four = {dw[j][k], dw[j][k + 1], dw[j][k + 2], dw[j][k + 3]};
      *reinterpret_cast<float4*>(partial + blockIdx.x * static_cast<std::int64_t>(cols) + i + k) =
          four;
    }
  });
}

// to[c] = the sum of column c: 32 threads take every 32nd row each, and add up in turn.
__global__ void column_sum_kernel(const float* from, std::int64_t rows, std::int64_t cols,
                                  float* to) {
  __shared__ float sums[32][33];
  const std::int64_t col = blockIdx.x * 32 + threadIdx.x;
  float sum = 0;
  if (col < cols)
#pragma unroll 9
    for (std::int64_t row = threadIdx.y; row < rows; row += 32) sum += from[row * cols + col];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  sum = warp_sum(sums[threadIdx.x][threadIdx.y]);
  if (threadIdx.x == 0 && blockIdx.x * 32 + threadIdx.y < cols)
    to[blockIdx.x * 32 + threadIdx.y] = sum;
}

// Calls f<V>() for V = vectors a thread, 1 to 4.
template <class F>
void for_count(int vectors, F&& f) {
  switch (vectors) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 3:
      return f.template operator()<3>();
    default:
      return f.template operator()<4>();
  }
}

}  // namespace

void rms_norm(Type type, const NormRows& in, const void* delta, float eps, const Quantization& q,
              void* sum, void* y, float* inverse, cudaStream_t stream) {
  if (in.rows == 0) return;
  const RowShape s = row_shape(type, in.cols);
  const bool fits = s.fits && aligned(in.x, in.weight, delta, sum, y);
  const bool fused =
      fits && q.wanted() && q.rule == nvfp4::BlockScale::max && in.cols % nvfp4::kBlock == 0;
  for_type(type, [&]<class T>() {
    const T *x = static_cast<const T*>(in.x), *d = static_cast<const T*>(delta),
            *w = static_cast<const T*>(in.weight);
    const int cols = static_cast<int>(in.cols);
    if (fits) {
      const dim3 threads(s.threads, s.threads > 32 ? 1 : 4);
      const auto blocks = static_cast<unsigned>(blocks_for(in.rows, threads.y));
      for_count(s.vectors, [&]<int V>() {
        const auto kernel =
            fused ? rms_norm_kernel<T, kWide<T>, V, true> : rms_norm_kernel<T, kWide<T>, V, false>;
        launch(in.rows <= kMostEarlyRows, kernel, blocks, threads, stream, x, d, w, eps, in.rows,
               cols, format_of(q), static_cast<T*>(sum), static_cast<T*>(y), inverse);
      });
    } else {
      rms_norm_long_kernel<T><<<static_cast<unsigned>(in.rows), 512, 0, stream>>>(
          x, d, w, eps, cols, static_cast<T*>(sum), static_cast<T*>(y), inverse);
    }
  });
  if (q.wanted() && !fused) fake_quantize(type, y, in.rows, in.cols, q, y, stream);
}

std::int64_t rms_norm_partials(Type type, std::int64_t rows, std::int64_t cols) {
  // Two blocks of 256 threads on each of 132 multiprocessors.
  return std::min<std::int64_t>(blocks_for(rows, row_shape(type, cols).rows()), 264);
}

void rms_norm_backward(Type type, const NormRows& in, const void* grad, const void* grad_sum,
                       const float* inverse, void* dx, float* partial, float* dweight,
                       cudaStream_t stream) {
  const RowShape s = row_shape(type, in.cols);
  const auto partials = rms_norm_partials(type, in.rows, in.cols);
  const auto blocks = static_cast<unsigned>(partials);
  if (blocks == 0) return;
  for_type(type, [&]<class T>() {
    const T *g = static_cast<const T*>(grad), *b = static_cast<const T*>(grad_sum),
            *x = static_cast<const T*>(in.x), *w = static_cast<const T*>(in.weight);
    const int cols = static_cast<int>(in.cols);
    const int shared = static_cast<int>(in.cols * sizeof(float));
    if (s.fits && aligned(grad, grad_sum, in.x, in.weight, dx)) {
      const dim3 threads(s.threads, s.rows());
      for_count(s.vectors, [&]<int V>() {
        // The upper half of the rows, up to a power of two.
        const unsigned halves = std::bit_ceil(s.rows()) / 2;
        const int joined = static_cast<int>(halves * s.threads * V * kWide<T> * sizeof(float));
        const auto kernel = rms_norm_backward_kernel<T, kWide<T>, V>;
        kernel<<<blocks, threads, joined, stream>>>(g, b, x, w, inverse, in.rows, cols,
                                                    static_cast<T*>(dx), partial);
      });
    } else {
      if (shared > 40 * 1024)  // more than every kernel may take unasked
        cudaFuncSetAttribute(rms_norm_backward_long_kernel<T>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
      rms_norm_backward_long_kernel<T><<<blocks, 512, shared, stream>>>(
          g, b, x, w, inverse, in.rows, cols, static_cast<T*>(dx), partial);
    }
  });
  column_sum_kernel<<<static_cast<unsigned>(blocks_for(in.cols, 32)), dim3(32, 32), 0, stream>>>(
      partial, partials, in.cols, dweight);
}

}  // namespace qad::cuda
