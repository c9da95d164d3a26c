// GPTQ over the Cholesky factor of the inverse Hessian: U upper triangular with U^T U = H^-1, of
// which row j is what column j's error, divided by U[j][j], takes from the columns after it. Within
// a block of columns rows of the weight go through one by one, in a core's cache; the rest of the
// matrix gets a block's errors in one product.
#include "quantize/gptq.h"

#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_cholesky.h>

#include <algorithm>

#include "core/error.h"
#include "ops/threads.h"

namespace qad::quantize {
namespace {

constexpr std::int64_t kColumns = 128;  // of a block
constexpr std::int64_t kRows = 16;      // that a thread takes at a time
constexpr double kDamping = 0.01;       // of the mean diagonal

void check_shapes(const at::Tensor& weight, const at::Tensor& moments) {
  check(weight.dim() == 2 && weight.size(1) % nvfp4::kBlock == 0 && weight.is_contiguous() &&
            weight.is_cpu() && weight.scalar_type() == at::kFloat &&
            (!moments.defined() || moments.numel() > 0),
        "quantize", "expected a contiguous FP32 weight whose columns are a multiple of 16");
}

// In double: the smallest eigenvalues, which decide the inverse, may be 1e-6 of the largest.
at::Tensor inverse_factor(const at::Tensor& hessian) {
  at::Tensor h = hessian.to(at::kDouble).clone();
  h.diagonal().add_(h.diagonal().mean().mul(kDamping));
  const at::Tensor lower = at::linalg_cholesky(h);
  return at::linalg_cholesky(at::cholesky_inverse(lower), /*upper=*/true)
      .to(at::kFloat)
      .contiguous();
}

// The columns [first, last) of one row, from `w`, which takes the masters; errors [last - first].
void round_row(float* w, const std::uint8_t* scales, float global, const float* u,
               std::int64_t cols, std::int64_t first, std::int64_t last, float* errors) {
  float v[kColumns];
  const std::int64_t n = last - first;
  std::copy(w + first, w + last, v);
  for (std::int64_t j = 0; j < n; ++j) {
    const float d = nvfp4::e4m3_decode(scales[(first + j) / nvfp4::kBlock]) * global;
    const std::uint8_t code = nvfp4::e2m1_encode(v[j] / d);
    const float y = nvfp4::e2m1_decode(code) * d, near = nvfp4::round_to_bf16(v[j]);
    w[first + j] = nvfp4::e2m1_encode(near / d) == code ? near : nvfp4::round_to_bf16(y);
    const float* row = u + (first + j) * cols + first;
    const float error = errors[j] = (v[j] - y) / row[j];
    for (std::int64_t k = j + 1; k < n; ++k) v[k] -= error * row[k];
  }
}

}  // namespace

at::Tensor diagonal_blocks(const at::Tensor& hessian) {
  const std::int64_t n = hessian.size(0) / nvfp4::kBlock;
  return hessian.view({n, nvfp4::kBlock, n, nvfp4::kBlock})
      .diagonal(0, 0, 2)
      .permute({2, 0, 1})
      .contiguous();
}

at::Tensor block_scales(const at::Tensor& weight, const at::Tensor& blocks, float global,
                        const Policy& policy) {
  check_shapes(weight, blocks);
  const std::int64_t rows = weight.size(0), cols = weight.size(1), of_row = cols / nvfp4::kBlock;
  const at::Tensor scales = at::empty({rows, of_row}, at::kByte);
  const float* x = weight.const_data_ptr<float>();
  const float* h = policy.hessian_scales ? blocks.const_data_ptr<float>() : nullptr;
  std::uint8_t* s = scales.data_ptr<std::uint8_t>();
  ops::for_pieces((rows + kRows - 1) / kRows, [&](std::int64_t piece) {
    const std::int64_t first = piece * kRows, n = std::min(kRows, rows - first);
    if (policy.hessian_scales)
      return nvfp4::hessian_scales(x + first * cols, n, cols, global, h, s + first * of_row);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * cols / 2));
    nvfp4::quantize(x + first * cols, n, cols, global, policy.weights, codes.data(),
                    s + first * of_row);
  });
  return scales;
}

Rounded gptq(const at::Tensor& weight, const at::Tensor& hessian, float global,
             const at::Tensor& scales) {
  check_shapes(weight, hessian);
  const std::int64_t rows = weight.size(0), cols = weight.size(1), of_row = cols / nvfp4::kBlock;
  check(hessian.dim() == 2 && hessian.size(0) == cols && hessian.size(1) == cols &&
            scales.numel() == rows * of_row,
        "gptq", "expected moments [{}, {}] and {} block scales", cols, cols, rows * of_row);
  const at::Tensor factor = inverse_factor(hessian), w = weight.clone();
  const float* u = factor.const_data_ptr<float>();
  const std::uint8_t* s = scales.const_data_ptr<std::uint8_t>();
  float* values = w.data_ptr<float>();
  for (std::int64_t first = 0; first < cols; first += kColumns) {
    const std::int64_t last = std::min(first + kColumns, cols), n = last - first;
    const at::Tensor errors = at::empty({rows, n}, at::kFloat);
    float* e = errors.data_ptr<float>();
    ops::for_pieces((rows + kRows - 1) / kRows, [&](std::int64_t piece) {
      for (std::int64_t row = piece * kRows; row < std::min((piece + 1) * kRows, rows); ++row)
        round_row(values + row * cols, s + row * of_row, global, u, cols, first, last, e + row * n);
    });
    if (last < cols)
      w.narrow(1, last, cols - last)
          .addmm_(errors, factor.narrow(0, first, n).narrow(1, last, cols - last), 1, -1);
  }
  return {w, scales};
}

}  // namespace qad::quantize
