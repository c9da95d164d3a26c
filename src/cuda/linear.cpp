// Linear layer on CUDA: cuBLAS through at::mm, and a kernel of our own for few rows. Products of
// NVFP4 values in BF16 are exact and summed in FP32; the result has the type of the input.
#include <ATen/Context.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include <algorithm>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

bool takes(const Tensor& t, const Tensor& beside) {
  return t.scalar_type() == at::kBFloat16 && t.device() == beside.device() && t.is_contiguous() &&
         reinterpret_cast<std::uintptr_t>(t.const_data_ptr()) % 16 == 0;
}

// A few rows as they come while texts are written: half the time of cuBLAS's.
bool takes_rows(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  return x.size(0) <= kMostLinearRows && x.size(1) % 8 == 0 &&
         std::max(x.size(1), weight.size(0)) < (std::int64_t{1} << 31) && takes(x, x) &&
         takes(weight, x) && (!bias || takes(*bias, x));
}

Tensor linear_cuda(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  check_values(x, 2, "linear", "x");
  check_values(weight, 2, "linear", "weight");
  if (x.scalar_type() != weight.scalar_type())
    fail("linear", "expected x and weight of one type, found {} and {}", describe(x),
         describe(weight));
  check_size(x.size(1), weight.size(1), "linear", "columns of x");
  if (bias) check_size(bias->numel(), weight.size(0), "linear", "size of bias");
  if (takes_rows(x, weight, bias)) {
    const Launch launch(x, "linear");
    Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
    linear_rows(x.const_data_ptr(), weight.const_data_ptr(),
                bias ? bias->const_data_ptr() : nullptr, x.size(0), weight.size(0), x.size(1),
                y.data_ptr(), launch.stream());
    launch.done(x, weight);
    return y;
  }
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
