// Masters to values in one pass, with the bits of ops::ship_ on the CPU; and the largest magnitude
// of a master, for who does not know it.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/nvfp4_block.cuh"
#include "cuda/reduce.cuh"
#include "cuda/tables.cuh"
#include "cuda/vector.cuh"
#include "nvfp4/global_scale.h"

namespace qad::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// Pieces of 16 bytes of the value that a thread has. Two, if both loads are under way before the
// first is used, hide more of memory; searches are busy anyway. (A whole block a thread, which
// would need no neighbours for its errors, took half as long again.)
template <BlockScale kRule>
constexpr int kPieces = kRule == BlockScale::max ? 2 : 1;

template <class T>
__global__ void __launch_bounds__(kThreads)
    amax_kernel(const T* x, std::int64_t n, std::uint32_t* amax) {
  constexpr int N = kWide<T>;
  __shared__ std::uint32_t of_warps[kWarps];
  const std::int64_t thread = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  const std::int64_t threads = gridDim.x * std::int64_t{kThreads};
  const std::int64_t whole = reinterpret_cast<std::uintptr_t>(x) % 16 == 0 ? n / N * N : 0;
  std::uint32_t most = 0;
#pragma unroll 4
  for (std::int64_t i = thread * N; i < whole; i += threads * N) {
    float v[N];
    load(x + i, v);
#pragma unroll
    for (int k = 0; k < N; ++k) most = max(most, nvfp4::magnitude_bits(v[k]));
  }
  for (std::int64_t i = whole + thread; i < n; i += threads)
    most = max(most, nvfp4::magnitude_bits(to_float(x[i])));
  most = __reduce_max_sync(kAllLanes, most);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (const std::uint32_t other : of_warps) most = max(most, other);
  atomicMax(amax, __float_as_uint(nvfp4::bf16_amax(most)));
}

// Every block raises the global scale for itself. The first one also stores it, perhaps before
// others read it: raising it again changes nothing.
__device__ float raised(float before, float amax, nvfp4::GlobalScale global_rule, BlockScale rule) {
  return fmaxf(before, nvfp4::unchecked_global_scale(amax, global_rule, rule));
}

// Tensors of one launch, with the blocks of threads that each has; `wide` as in fake_quantize.
constexpr int kTensors = 128;
struct Table {
  ShipTensor of[kTensors];
  bool wide[kTensors];
  std::int32_t first[kTensors + 1];
  int tensors;
};

// Infinite or too large weights leave everything as it was.
template <class M, class T, BlockScale kRule>
__global__ void __launch_bounds__(kThreads)
    ship_kernel(const __grid_constant__ Table table, nvfp4::GlobalScale global_rule) {
  constexpr int N = kWide<T>, kMine = kPieces<kRule>;
  const int which = tensor_of_block(table);
  const ShipTensor& t = table.of[which];
  const auto* const master = static_cast<const M*>(t.master);
  auto* const value = static_cast<T*>(t.value);
  const std::int64_t rows = t.rows, cols = t.cols;
  const bool wide = table.wide[which];
  const std::int64_t my_block = blockIdx.x - table.first[which];
  const float most = *t.amax;
  const float infinity = __int_as_float(0x7F800000);
  const bool finite = most < infinity;
  const bool fits =
      finite && nvfp4::scale_fits(nvfp4::unchecked_global_scale(most, global_rule, kRule));
  const bool first = my_block == 0 && threadIdx.x == 0;
  if (first) *t.out = finite && !fits ? infinity : most;
  if (!fits) return;
  const float scale = raised(__ldcg(t.global), most, global_rule, kRule);
  if (first) __stcg(t.global, scale);

  const std::int64_t per_row = (cols + nvfp4::kBlock - 1) / nvfp4::kBlock * Block<N>::kLanes;
  float x[kMine][N];
  std::int64_t at[kMine], left[kMine];
#pragma unroll
  for (int p = 0; p < kMine; ++p) {
    const std::int64_t index = (my_block * kMine + p) * kThreads + threadIdx.x;
    const std::int64_t row = rows == 1 ? 0 : index / per_row;
    const std::int64_t col = (index - row * per_row) * N;
    at[p] = row * cols + col;
    left[p] = index < rows * per_row ? cols - col : 0;
    if (wide && left[p] > 0) {
      if constexpr (N < kWide<M>)
        load(master + at[p], x[p]);
      else
        load_pieces(master + at[p], x[p]);
    } else {
      for (int i = 0; i < N; ++i) x[p][i] = i < left[p] ? to_float(master[at[p] + i]) : 0.0f;
    }
  }
#pragma unroll
  for (int p = 0; p < kMine; ++p) {
#pragma unroll
    for (int i = 0; i < N; ++i) x[p][i] = to_float(__float2bfloat16_rn(x[p][i]));
    float y[N];
    const Block<N> block{x[p]};
    block.template fake_quantize<kRule>(scale, block.amax(), y);
    if (wide && left[p] > 0)
      store(value + at[p], y);
    else
      for (int i = 0; i < N; ++i)
        if (i < left[p]) store(value + at[p] + i, y[i]);
  }
}

}  // namespace

void weight_amax(Type master_type, const void* master, std::int64_t n, std::uint32_t* amax,
                 cudaStream_t stream) {
  cudaMemsetAsync(amax, 0, sizeof *amax, stream);
  if (n == 0) return;
  for_type(master_type, [&]<class M>() {
    constexpr auto kKernel = amax_kernel<M>;
    const unsigned blocks = fill_device<kKernel>(blocks_for(n, kThreads * 4), kThreads);
    kKernel<<<blocks, kThreads, 0, stream>>>(static_cast<const M*>(master), n, amax);
  });
}

void ship(std::span<const ShipTensor> tensors, nvfp4::GlobalScale global_rule,
          cudaStream_t stream) {
  const auto alike = [](const ShipTensor& a, const ShipTensor& b) {
    return a.master_type == b.master_type && a.type == b.type && a.rule == b.rule;
  };
  const auto launch = [&]<class M, class T, BlockScale kRule>(Table& table) {
    for (int i = 0; i < table.tensors; ++i) {
      ShipTensor& t = table.of[i];
      // Rows follow each other without a gap.
      if (t.cols % nvfp4::kBlock == 0) t.cols *= t.rows, t.rows = 1;
      const auto places =
          reinterpret_cast<std::uintptr_t>(t.master) | reinterpret_cast<std::uintptr_t>(t.value);
      table.wide[i] = places % 16 == 0 && t.cols % nvfp4::kBlock == 0;
      const std::int64_t threads =
          t.rows * nvfp4::blocks_per_row(t.cols) * (nvfp4::kBlock / kWide<T>);
      // At least one, which hands on the largest magnitude.
      const std::int64_t blocks = blocks_for(threads, kThreads * kPieces<kRule>);
      table.first[i + 1] =
          table.first[i] + static_cast<std::int32_t>(std::max<std::int64_t>(1, blocks));
    }
    ship_kernel<M, T, kRule><<<static_cast<unsigned>(table.first[table.tensors]), kThreads, 0,
                               stream>>>(table, global_rule);
  };
  for_tables<Table>(tensors, alike, [&](Table& table) {
    for_type(table.of[0].master_type, [&]<class M>() {
      for_type(table.of[0].type, [&]<class T>() {
        const BlockScale rule = table.of[0].rule;
        if (rule == BlockScale::max)
          launch.template operator()<M, T, BlockScale::max>(table);
        else if (rule == BlockScale::mse)
          launch.template operator()<M, T, BlockScale::mse>(table);
        else
          launch.template operator()<M, T, BlockScale::four_over_six>(table);
      });
    });
  });
}

}  // namespace qad::cuda
