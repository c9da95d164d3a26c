// Linear layer of few rows whose weight stays packed in NVFP4: 4.5 bits a value are read and become
// BF16 in registers, with the bits of the unpacked weight. A thread's share of a turn are 32
// columns, 16 bytes of codes and two scales.
#include "cuda/early.cuh"
#include "cuda/few_rows.cuh"
#include "cuda/nvfp4_block.cuh"

namespace qad::cuda {
namespace {

constexpr int kEach = 32;            // columns of a thread at a time
constexpr int kColumns = 4 * kEach;  // of a warp
constexpr int kStep = kFewWarps * kColumns;

__device__ float global_of(const PackedRows& w, int output) {
  float global = w.globals[0];
#pragma unroll
  for (int i = 1; i < PackedRows::kMostParts; ++i)
    if (i < w.parts && output >= w.ends[i - 1]) global = w.globals[i];
  return global;
}

// Eight values, the first in the lowest bits.
__device__ uint4 values_of(unsigned codes, float d) {
  unsigned pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair =
        __floats2bfloat162_rn(__fmul_rn(decode_e2m1(codes >> (8 * i) & 15), d),
                              __fmul_rn(decode_e2m1(codes >> (8 * i + 4) & 15), d));
    memcpy(&pairs[i], &pair, sizeof pair);
  }
  return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// kTurns: a warp's reads that are on their way together. kAll: x may have more than 8 rows.
template <int kTurns, bool kAll>
__global__ void __launch_bounds__(32 * kFewWarps)
    linear_packed_kernel(const __nv_bfloat16* __restrict__ x, PackedRows weight,
                         const __nv_bfloat16* __restrict__ bias, int all_rows, int outputs,
                         int columns, __nv_bfloat16* __restrict__ y) {
  let_next_begin();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4;
  const int first = blockIdx.x * kFewOutputs, from = warp * kColumns + lane % 4 * kEach;
  const std::int64_t first_row = blockIdx.y * std::int64_t{kFewRows};
  const int rows = min(kFewRows, all_rows - static_cast<int>(first_row));
  x += first_row * columns;
  y += first_row * outputs;
  const int output = first + group;
  const bool there = output < outputs;
  const float global = global_of(weight, output);
  uint4 codes[kTurns];
  unsigned short scales[kTurns];
  const auto read_weights = [&](int base) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int column = base + i * kStep;
      const std::int64_t at = static_cast<std::int64_t>(output) * columns + column;
      const bool reads = there && column < columns;
      codes[i] = reads ? *reinterpret_cast<const uint4*>(weight.codes + at / 2) : uint4{};
      scales[i] = reads ? *reinterpret_cast<const unsigned short*>(weight.scales + at / 16) : 0;
    }
  };
  read_weights(from);
  wait_for_previous();
  const auto read_x = [&](int row, int column, bool wanted) {
    return wanted && row < rows && column < columns
               ? *reinterpret_cast<const uint4*>(x + static_cast<std::int64_t>(row) * columns +
                                                 column)
               : make_uint4(0, 0, 0, 0);
  };
  float sums[4] = {};
  for (int base = from;;) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int column = base + i * kStep;
      if (column - lane % 4 * kEach >= columns) continue;  // the warp's
      const unsigned words[4] = {codes[i].x, codes[i].y, codes[i].z, codes[i].w};
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        const uint4 upper = read_x(group, column + 8 * p, true);
        const uint4 lower = read_x(group + 8, column + 8 * p, kAll);
        const float d = __fmul_rn(decode_scale(scales[i] >> (p / 2 * 8) & 0xFF), global);
        const uint4 w = values_of(words[p], d);
        add_product(sums, upper.x, lower.x, upper.y, lower.y, w.x, w.y);
        add_product(sums, upper.z, lower.z, upper.w, lower.w, w.z, w.w);
      }
    }
    base += kTurns * kStep;
    if (base - from >= columns) break;  // the same for all threads, whom products need together
    read_weights(base);
  }
  store_sums(sums, bias, rows, first, outputs, y);
}

}  // namespace

void linear_packed(const void* x, const PackedRows& weight, const void* bias, std::int64_t rows,
                   std::int64_t outputs, std::int64_t columns, void* y, cudaStream_t stream) {
  if (rows == 0 || outputs == 0) return;
  const auto with = [&]<int kTurns>() {
    return rows <= 8 ? linear_packed_kernel<kTurns, false> : linear_packed_kernel<kTurns, true>;
  };
  const auto kernel = columns <= kStep       ? with.template operator()<1>()
                      : columns <= 2 * kStep ? with.template operator()<2>()
                                             : with.template operator()<4>();
  const dim3 grid(static_cast<unsigned>(blocks_for(outputs, kFewOutputs)),
                  static_cast<unsigned>(blocks_for(rows, kFewRows)));
  launch(true, kernel, grid, 32 * kFewWarps, stream, static_cast<const __nv_bfloat16*>(x), weight,
         static_cast<const __nv_bfloat16*>(bias), static_cast<int>(rows), static_cast<int>(outputs),
         static_cast<int>(columns), static_cast<__nv_bfloat16*>(y));
}

}  // namespace qad::cuda
