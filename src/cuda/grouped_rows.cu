// Rows in groups, such as those of a mixture's experts: fake quantisation with a global scale for
// each group, and plain products with a matrix for each.
#include "cuda/documents.cuh"
#include "cuda/experts.h"
#include "cuda/quantize.cuh"

namespace qad::cuda {
namespace {

constexpr int kThreads = 256;

// The 16 values of a block are in 16 / N threads of a warp; N 1 takes any rows, with zeros behind a
// row's end.
template <class T, int N, BlockScale kRule>
__global__ void __launch_bounds__(kThreads)
    quantize_groups_kernel(T* x, RowGroups g, GroupScales scales, unsigned long long* clipped) {
  const std::int64_t per_row = (g.cols + nvfp4::kBlock - 1) / nvfp4::kBlock * nvfp4::kBlock;
  const std::int64_t index = (blockIdx.x * std::int64_t{kThreads} + threadIdx.x) * N;
  if (index >= g.rows * per_row) return;  // the threads of a block together
  const std::int64_t row = index / per_row, col = index % per_row;
  const std::int64_t group = g.offsets ? part_of(g.offsets, g.groups, row) : 0;
  const float global = scales.global[group];
  if (global == 0) return;
  T* at = x + row * g.cols + col;
  float v[N] = {};
  if constexpr (N > 1)
    load(at, v);
  else if (col < g.cols)
    v[0] = to_float(*at);
  const unsigned beyond = quantize<kRule>(v, format_of(global));
  if constexpr (N > 1)
    store(at, v);
  else if (col < g.cols)
    store(at, v[0]);
  if (beyond) atomicAdd(clipped + group, static_cast<unsigned long long>(beyond));
}

// Tiles of kTile by kTile results, each thread kEach by kEach of them; sums go through shared
// memory in steps of kStep. What a tile lies in is the caller's: the functions say an element's
// value, and zero where there is none.
constexpr int kTile = 64, kStep = 16, kSide = 16, kEach = kTile / kSide;

template <class A, class B, class Store>
__device__ void product_tile(std::int64_t terms, A&& a, B&& b, Store&& store_at) {
  __shared__ float of_a[kStep][kTile + 1], of_b[kStep][kTile + 1];
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  float sums[kEach][kEach] = {};
  for (std::int64_t first = 0; first < terms; first += kStep) {
    for (int e = threadIdx.x; e < kStep * kTile; e += kThreads) {
      // Neighbouring threads read neighbouring terms, or rows, as the caller's layout has it.
      const int row = e / kStep, term = e % kStep;
      of_a[term][row] = first + term < terms ? a(row, first + term) : 0.0f;
      of_b[term][row] = first + term < terms ? b(row, first + term) : 0.0f;
    }
    __syncthreads();
    for (int k = 0; k < kStep; ++k)
#pragma unroll
      for (int i = 0; i < kEach; ++i)
#pragma unroll
        for (int j = 0; j < kEach; ++j)
          sums[i][j] = fmaf(of_a[k][ty + i * kSide], of_b[k][tx + j * kSide], sums[i][j]);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i)
#pragma unroll
    for (int j = 0; j < kEach; ++j) store_at(ty + i * kSide, tx + j * kSide, sums[i][j]);
}

// The group and first row of a block's tile: tiles are cut within groups, so there may be one more
// of them for each group than its rows would fill. Group -1: none is left.
struct RowTile {
  std::int64_t group, first, end;
};
__device__ RowTile row_tile(const GroupedProduct& p, std::int64_t tile) {
  for (std::int64_t g = 0; g < p.groups; ++g) {
    const std::int64_t begin = p.offsets[g], end = p.offsets[g + 1];
    const std::int64_t tiles = blocks_for(end - begin, kTile);
    if (tile < tiles) return {g, begin + tile * kTile, end};
    tile -= tiles;
  }
  return {-1, 0, 0};
}

// y = x W^T, or with kBack dx = dy W: `inner` terms, `outer` columns of the result.
template <class T, bool kBack>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(GroupedProduct p, const T* x, const T* weights, T* y) {
  const RowTile tile = row_tile(p, blockIdx.x);
  if (tile.group < 0) return;
  const std::int64_t inner = kBack ? p.outputs : p.columns, outer = kBack ? p.columns : p.outputs;
  const std::int64_t first = blockIdx.y * std::int64_t{kTile};
  const T* w = weights + tile.group * p.outputs * p.columns;
  product_tile(
      inner,
      [&](int row, std::int64_t term) {
        return tile.first + row < tile.end ? to_float(x[(tile.first + row) * inner + term]) : 0.0f;
      },
      [&](int col, std::int64_t term) {
        if (first + col >= outer) return 0.0f;
        return to_float(kBack ? w[term * p.columns + first + col]
                              : w[(first + col) * p.columns + term]);
      },
      [&](int row, int col, float sum) {
        if (tile.first + row < tile.end && first + col < outer)
          store(y + (tile.first + row) * outer + first + col, sum);
      });
}

// dW = dy^T x of each group's rows: zeros where it has none.
template <class T>
__global__ void __launch_bounds__(kThreads)
    weights_kernel(GroupedProduct p, const T* grad, const T* x, T* dweights) {
  const std::int64_t group = blockIdx.z, begin = p.offsets[group];
  const std::int64_t output = blockIdx.x * std::int64_t{kTile},
                     column = blockIdx.y * std::int64_t{kTile};
  product_tile(
      p.offsets[group + 1] - begin,
      [&](int row, std::int64_t term) {
        return output + row < p.outputs ? to_float(grad[(begin + term) * p.outputs + output + row])
                                        : 0.0f;
      },
      [&](int col, std::int64_t term) {
        return column + col < p.columns ? to_float(x[(begin + term) * p.columns + column + col])
                                        : 0.0f;
      },
      [&](int row, int col, float sum) {
        if (output + row < p.outputs && column + col < p.columns)
          store(dweights + (group * p.outputs + output + row) * p.columns + column + col, sum);
      });
}

template <bool kBack>
void product_of_rows(const GroupedProduct& p, const void* x, const void* weights, void* y,
                     cudaStream_t stream) {
  const std::int64_t outer = kBack ? p.columns : p.outputs;
  if (p.rows * outer == 0) return;
  const dim3 grid(static_cast<unsigned>(p.rows / kTile + p.groups),
                  static_cast<unsigned>(blocks_for(outer, kTile)));
  for_type(p.type, [&]<class T>() {
    rows_kernel<T, kBack><<<grid, kThreads, 0, stream>>>(
        p, static_cast<const T*>(x), static_cast<const T*>(weights), static_cast<T*>(y));
  });
}

}  // namespace

void fake_quantize_groups(Type type, void* x, const RowGroups& g, const GroupScales& scales,
                          nvfp4::BlockScale rule, std::int64_t* clipped, cudaStream_t stream) {
  if (g.rows * g.cols == 0) return;
  auto* const count = reinterpret_cast<unsigned long long*>(clipped);
  const std::int64_t values = g.rows * nvfp4::blocks_per_row(g.cols) * nvfp4::kBlock;
  for_vectors(
      type, g.cols % nvfp4::kBlock == 0 ? g.cols : 1,  // vectors of whole blocks, or values
      [&]<class T, int N>() {
        const auto launch = [&]<BlockScale kRule>() {
          quantize_groups_kernel<T, N, kRule>
              <<<static_cast<unsigned>(blocks_for(values, kThreads * N)), kThreads, 0, stream>>>(
                  static_cast<T*>(x), g, scales, count);
        };
        if (rule == BlockScale::max)
          launch.template operator()<BlockScale::max>();
        else if (rule == BlockScale::mse)
          launch.template operator()<BlockScale::mse>();
        else
          launch.template operator()<BlockScale::four_over_six>();
      },
      x);
}

void grouped_product(const GroupedProduct& p, const void* x, const void* weights, void* y,
                     cudaStream_t stream) {
  product_of_rows<false>(p, x, weights, y, stream);
}

void grouped_product_of_x(const GroupedProduct& p, const void* grad, const void* weights, void* dx,
                          cudaStream_t stream) {
  product_of_rows<true>(p, grad, weights, dx, stream);
}

void grouped_product_of_weights(const GroupedProduct& p, const void* grad, const void* x,
                                void* dweights, cudaStream_t stream) {
  if (p.outputs * p.columns == 0) return;
  const dim3 grid(static_cast<unsigned>(blocks_for(p.outputs, kTile)),
                  static_cast<unsigned>(blocks_for(p.columns, kTile)),
                  static_cast<unsigned>(p.groups));
  for_type(p.type, [&]<class T>() {
    weights_kernel<T><<<grid, kThreads, 0, stream>>>(
        p, static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<T*>(dweights));
  });
}

}  // namespace qad::cuda
