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

Tensor linear_packed_cuda(const Tensor& x, const Tensor& codes, const Tensor& scales,
                          at::IntArrayRef ends, at::ArrayRef<double> globals,
                          const std::optional<Tensor>& bias) {
  const Type type = check_values(x, 2, "linear", "x");
  const Tensor c = check_beside(codes, at::kByte, x, "linear", "codes"),
               s = check_beside(scales, at::kByte, x, "linear", "scales");
  const std::int64_t columns = x.size(1), outputs = ends.empty() ? 0 : ends.back();
  check_size(c.numel(), outputs * (columns / 2), "linear", "bytes of codes");
  check_size(s.numel(), outputs * nvfp4::blocks_per_row(columns), "linear", "number of scales");
  check_size(static_cast<std::int64_t>(globals.size()), static_cast<std::int64_t>(ends.size()),
             "linear", "number of global scales");
  if (bias) check_size(bias->numel(), outputs, "linear", "size of bias");
  const auto* code = c.const_data_ptr<std::uint8_t>();
  const auto* scale = s.const_data_ptr<std::uint8_t>();
  if (x.size(0) <= kMostPackedRows && columns % 32 == 0 && ends.size() <= PackedRows::kMostParts &&
      std::max(columns, outputs) < (std::int64_t{1} << 31) && takes(x, x) &&
      (!bias || takes(*bias, x)) && reinterpret_cast<std::uintptr_t>(code) % 16 == 0) {
    PackedRows w{code, scale, static_cast<int>(ends.size()), {}, {}};
    for (std::size_t i = 0; i < ends.size(); ++i) {
      w.ends[i] = static_cast<int>(ends[i]);
      w.globals[i] = static_cast<float>(globals[i]);
    }
    const Launch launch(x, "linear");
    Tensor y = at::empty({x.size(0), outputs}, x.options());
    linear_packed(x.const_data_ptr(), w, bias ? bias->const_data_ptr() : nullptr, x.size(0),
                  outputs, columns, y.data_ptr(), launch.stream());
    launch.done(x, c, s);
    return y;
  }
  const Tensor weight = at::empty({outputs, columns}, x.options());
  const Launch launch(x, "linear");
  std::int64_t first = 0;
  for (std::size_t i = 0; i < ends.size(); first = ends[i++])
    unpack(type, code + first * (columns / 2), scale + first * nvfp4::blocks_per_row(columns),
           ends[i] - first, columns, static_cast<float>(globals[i]),
           static_cast<std::byte*>(weight.data_ptr()) + first * columns * x.element_size(),
           launch.stream());
  launch.done(x, c, s);
  return linear_cuda(x, weight, bias);
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  // PyTorch lets cuBLAS add up parts of a BF16 product in BF16; sums are FP32 here (NUMERICS.md).
  at::globalContext().setAllowBF16ReductionCuBLAS(false);
  m.impl("linear", linear_cuda);
  m.impl("linear_packed", linear_packed_cuda);
}

}  // namespace
}  // namespace qad::cuda
