// Root-mean-square norm on CUDA: checks and registration. 1/rms and the weight's gradient are FP32
// whatever the type of the input.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

// A row's sums must fit into a multiprocessor's shared memory (163 KiB on compute capability 8.0).
constexpr std::int64_t kMaxCols = 32768;

// Without delta there is no sum to give back: it would be x.
std::tuple<Tensor, Tensor, Tensor> rms_norm_cuda(const Tensor& x,
                                                 const std::optional<Tensor>& delta,
                                                 const Tensor& weight, double eps, double global,
                                                 std::int64_t rule,
                                                 const std::optional<Tensor>& clipped) {
  const Type type = type_of(x, "rms_norm", "x");
  if (x.dim() < 1 || weight.dim() != 1)
    fail("rms_norm", "expected rows and a vector, found {} and {}", describe(x), describe(weight));
  check_size(x.size(-1), weight.size(0), "rms_norm", "columns of x");
  const Quantization q = quantization_of(global, rule, clipped, x, "rms_norm");
  const Tensor in = x.contiguous();
  const Tensor w = check_beside(weight, in.scalar_type(), in, "rms_norm", "weight");
  Tensor added, sum;
  if (delta) {
    added = check_beside(*delta, in.scalar_type(), in, "rms_norm", "delta");
    if (added.sizes() != in.sizes())
      fail("rms_norm", "delta: expected the shape of x, found {} and {}", describe(added),
           describe(in));
    sum = at::empty_like(in);
  }
  const std::int64_t cols = w.numel(), rows = cols == 0 ? 0 : in.numel() / cols;
  Tensor out = at::empty_like(in), inverse = at::empty({rows}, in.options().dtype(at::kFloat));
  const Launch launch(in, "rms_norm");
  rms_norm(type, {in.const_data_ptr(), w.const_data_ptr(), rows, cols},
           delta ? added.const_data_ptr() : nullptr, static_cast<float>(eps), q,
           delta ? sum.data_ptr() : nullptr, out.data_ptr(), inverse.data_ptr<float>(),
           launch.stream());
  launch.done(in, added, w);
  return {sum, out, inverse};
}

std::tuple<Tensor, Tensor> rms_norm_backward_cuda(const Tensor& grad,
                                                  const std::optional<Tensor>& grad_sum,
                                                  const Tensor& x, const Tensor& weight,
                                                  const Tensor& inverse) {
  const Type type = type_of(x, "rms_norm_backward", "x");
  const Tensor in = x.contiguous();
  const auto beside = [&](const Tensor& t, at::ScalarType of, const char* name) {
    return check_beside(t, of, in, "rms_norm_backward", name);
  };
  const Tensor g = beside(grad, in.scalar_type(), "grad"),
               w = beside(weight, in.scalar_type(), "weight"),
               inv = beside(inverse, at::kFloat, "inverse"),
               gs = grad_sum ? beside(*grad_sum, in.scalar_type(), "grad_sum") : Tensor();
  const std::int64_t cols = w.numel(), rows = inv.numel();
  check_size(g.numel(), rows * cols, "rms_norm_backward", "elements of grad");
  check_size(in.numel(), rows * cols, "rms_norm_backward", "elements of x");
  if (gs.defined())
    check_size(gs.numel(), rows * cols, "rms_norm_backward", "elements of grad_sum");
  check(cols <= kMaxCols, "rms_norm_backward", "columns: expected at most {}, found {}", kMaxCols,
        cols);
  const auto floats = in.options().dtype(at::kFloat);
  Tensor dx = at::empty_like(in);
  if (rows == 0) return {dx, at::zeros({cols}, floats)};
  Tensor partial = at::empty({rms_norm_partials(type, rows, cols), cols}, floats);
  Tensor dweight = at::empty({cols}, floats);
  const Launch launch(in, "rms_norm_backward");
  rms_norm_backward(type, {in.const_data_ptr(), w.const_data_ptr(), rows, cols}, g.const_data_ptr(),
                    gs.defined() ? gs.const_data_ptr() : nullptr, inv.const_data_ptr<float>(),
                    dx.data_ptr(), partial.data_ptr<float>(), dweight.data_ptr<float>(),
                    launch.stream());
  launch.done(g, gs, in, w);
  return {dx, dweight};
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("rms_norm", rms_norm_cuda);
  m.impl("rms_norm_backward", rms_norm_backward_cuda);
}

}  // namespace
}  // namespace qad::cuda
