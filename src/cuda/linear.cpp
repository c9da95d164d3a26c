// Linear layer on CUDA: cuBLAS through at::mm. Products of NVFP4 values in BF16 are exact and
// summed in FP32; the result has the type of the input.
#include <ATen/Context.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

Tensor linear_cuda(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  check_values(x, 2, "linear", "x");
  check_values(weight, 2, "linear", "weight");
  if (x.scalar_type() != weight.scalar_type())
    fail("linear", "expected x and weight of one type, found {} and {}", describe(x),
         describe(weight));
  check_size(x.size(1), weight.size(1), "linear", "columns of x");
  if (bias) check_size(bias->numel(), weight.size(0), "linear", "size of bias");
  const c10::cuda::CUDAGuard guard(x.device());
  return named(
      "linear", [&] { return bias ? at::addmm(*bias, x, weight.t()) : at::mm(x, weight.t()); }, x,
      weight);
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  // PyTorch lets cuBLAS add up parts of a BF16 product in BF16; sums are FP32 here (NUMERICS.md).
  at::globalContext().setAllowBF16ReductionCuBLAS(false);
  m.impl("linear", linear_cuda);
}

}  // namespace
}  // namespace qad::cuda
