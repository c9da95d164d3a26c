// Masters to values under block scales that were chosen before, with the bits of
// ops::ship_with_scales_ on the CPU. A thread has one value: a warp's accesses are two blocks, and
// the search that would make more of it worthwhile is over.
#include "cuda/launch.h"
#include "cuda/nvfp4_block.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kThreads = 256;

template <class M, class T>
__global__ void __launch_bounds__(kThreads) scaled_kernel(const ScaledTensor t) {
  const std::int64_t at = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (at >= t.rows * t.cols) return;
  const std::int64_t row = at / t.cols, col = at - row * t.cols;
  const std::int64_t blocks = (t.cols + nvfp4::kBlock - 1) / nvfp4::kBlock;
  const float d = __fmul_rn(decode_scale(t.scales[row * blocks + col / nvfp4::kBlock]), *t.global);
  const float w = to_float(__float2bfloat16_rn(to_float(static_cast<const M*>(t.master)[at])));
  float y[1] = {__fdiv_rn(w, d)};
  round_e2m1(y, d);
  store(static_cast<T*>(t.value) + at, y[0]);
}

}  // namespace

void ship_with_scales(const ScaledTensor& t, cudaStream_t stream) {
  for_type(t.master_type, [&]<class M>() {
    for_type(t.type, [&]<class T>() {
      scaled_kernel<M, T><<<blocks_for(t.rows * t.cols, kThreads), kThreads, 0, stream>>>(t);
    });
  });
}

}  // namespace qad::cuda
