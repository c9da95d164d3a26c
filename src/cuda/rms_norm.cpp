// Root-mean-square norm on CUDA: checks and registration. 1/rms and the weight's gradient are FP32
// whatever the type of the input.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

// Shares of the rows whose gradients of the weight are summed first: enough to fill every GPU, and
// the same on all of them, so that the sum has the same bits.
constexpr std::int64_t kPartials = 1024;

// A row's sums must fit into a multiprocessor's shared memory (163 KiB on compute capability 8.0).
constexpr std::int64_t kMaxCols = 32768;

std::tuple<Tensor, Tensor> rms_norm_cuda(const Tensor& x, const Tensor& weight, double eps) {
  const Type type = type_of(x, "rms_norm", "x");
  if (x.dim() < 1 || weight.dim() != 1)
    fail("rms_norm", "expected rows and a vector, found {} and {}", describe(x), describe(weight));
  check_size(x.size(-1), weight.size(0), "rms_norm", "columns of x");
  const Tensor in = x.contiguous();
  const Tensor w = check_beside(weight, in.scalar_type(), in, "rms_norm", "weight");
  const std::int64_t cols = w.numel(), rows = cols == 0 ? 0 : in.numel() / cols;
  Tensor out = at::empty_like(in), inverse = at::empty({rows}, in.options().dtype(at::kFloat));
  const Launch launch(in, "rms_norm");
  rms_norm(type, in.const_data_ptr(), w.const_data_ptr(), static_cast<float>(eps), rows, cols,
           out.data_ptr(), inverse.data_ptr<float>(), launch.stream());
  launch.done();
  return {out, inverse};
}

std::tuple<Tensor, Tensor> rms_norm_backward_cuda(const Tensor& grad, const Tensor& x,
                                                  const Tensor& weight, const Tensor& inverse) {
  const Type type = type_of(x, "rms_norm_backward", "x");
  const Tensor in = x.contiguous();
  const Tensor g = check_beside(grad, in.scalar_type(), in, "rms_norm_backward", "grad");
  const Tensor w = check_beside(weight, in.scalar_type(), in, "rms_norm_backward", "weight");
  const Tensor inv = check_beside(inverse, at::kFloat, in, "rms_norm_backward", "inverse");
  const std::int64_t cols = w.numel(), rows = inv.numel();
  check_size(g.numel(), rows * cols, "rms_norm_backward", "elements of grad");
  check_size(in.numel(), rows * cols, "rms_norm_backward", "elements of x");
  check(cols <= kMaxCols, "rms_norm_backward", "columns: expected at most {}, found {}", kMaxCols,
        cols);
  const std::int64_t partials = std::min(rows, kPartials);
  Tensor dx = at::empty_like(in);
  Tensor sums = at::empty({partials, cols}, in.options().dtype(at::kFloat));
  const Launch launch(in, "rms_norm_backward");
  rms_norm_backward(type, g.const_data_ptr(), in.const_data_ptr(), w.const_data_ptr(),
                    inv.const_data_ptr<float>(), rows, cols, dx.data_ptr(), sums.data_ptr<float>(),
                    partials, launch.stream());
  launch.done();
  return {dx, sums.sum(0)};
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("rms_norm", rms_norm_cuda);
  m.impl("rms_norm_backward", rms_norm_backward_cuda);
}

}  // namespace
}  // namespace qad::cuda
