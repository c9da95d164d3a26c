// Linear layer of few rows in BF16, as decoding has it: what counts is to begin early and to have
// all of the weight on its way at once.
#include "cuda/early.cuh"
#include "cuda/few_rows.cuh"

namespace qad::cuda {
namespace {

constexpr int kColumns = 32;  // of a warp at a time: four threads with 8 each
constexpr int kStep = kFewWarps * kColumns;

// kTurns: a warp's reads that are on their way together. kAll: x may have more than 8 rows.
template <int kTurns, bool kAll>
__global__ void __launch_bounds__(32 * kFewWarps)
    linear_rows_kernel(const __nv_bfloat16* __restrict__ x,
                       const __nv_bfloat16* __restrict__ weight,
                       const __nv_bfloat16* __restrict__ bias, int rows, int outputs, int columns,
                       __nv_bfloat16* __restrict__ y) {
  let_next_begin();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4;
  const int first = blockIdx.x * kFewOutputs, from = warp * kColumns + lane % 4 * 8;
  const auto read = [&](const __nv_bfloat16* of, std::int64_t row, int column, bool there) {
    return there && column < columns ? *reinterpret_cast<const uint4*>(of + row * columns + column)
                                     : make_uint4(0, 0, 0, 0);
  };
  const auto read_weights = [&](int base, uint4(&w)[kTurns]) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i)
      w[i] = read(weight, first + group, base + i * kStep, first + group < outputs);
  };
  uint4 w[kTurns];
  read_weights(from, w);
  wait_for_previous();
  float sums[4] = {};
  for (int base = from;;) {
    uint4 upper[kTurns], lower[kTurns];
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      upper[i] = read(x, group, base + i * kStep, group < rows);
      lower[i] = read(x, group + 8, base + i * kStep, kAll && group + 8 < rows);
    }
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      add_product(sums, upper[i].x, lower[i].x, upper[i].y, lower[i].y, w[i].x, w[i].y);
      add_product(sums, upper[i].z, lower[i].z, upper[i].w, lower[i].w, w[i].z, w[i].w);
    }
    base += kTurns * kStep;
    if (base - from >= columns) break;  // the same for all threads, whom products need together
    read_weights(base, w);
  }
  store_sums(sums, bias, rows, first, outputs, y);
}

}  // namespace

void linear_rows(const void* x, const void* weight, const void* bias, std::int64_t rows,
                 std::int64_t outputs, std::int64_t columns, void* y, cudaStream_t stream) {
  if (rows == 0 || outputs == 0) return;
  const bool narrow = columns <= 4 * kStep;
  const auto kernel = rows <= 8
                          ? narrow ? linear_rows_kernel<4, false> : linear_rows_kernel<8, false>
                      : narrow ? linear_rows_kernel<4, true>
                               : linear_rows_kernel<8, true>;
  launch(true, kernel, static_cast<unsigned>(blocks_for(outputs, kFewOutputs)), 32 * kFewWarps,
         stream, static_cast<const __nv_bfloat16*>(x), static_cast<const __nv_bfloat16*>(weight),
         static_cast<const __nv_bfloat16*>(bias), static_cast<int>(rows), static_cast<int>(outputs),
         static_cast<int>(columns), static_cast<__nv_bfloat16*>(y));
}

}  // namespace qad::cuda
