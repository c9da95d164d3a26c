// Products of tensors: FP32 on the CPU by our own kernel where it wins, everything else by
// LibTorch.
#include "ops/product.h"

#include "ops/dispatch.h"
#include "ops/matmul.h"

namespace qad::ops {
namespace {

using at::Tensor;

bool rows_together(const Tensor& t) {
  return t.stride(1) == 1 || t.size(1) == 1;
}

// `t` is replaced by a copy if neither its rows nor its columns lie together.
Matrix operand(Tensor& t) {
  if (rows_together(t)) return {t.const_data_ptr<float>(), t.stride(0)};
  if (t.stride(0) != 1 && t.size(0) != 1) {
    t = t.contiguous();
    return {t.const_data_ptr<float>(), t.stride(0)};
  }
  return {t.const_data_ptr<float>(), t.stride(1), true};
}

void multiply(const Tensor& c, Tensor a, Tensor b, const Addend& addend) {
  const Matrix left = operand(a), right = operand(b);
  matmul(left, right, c.data_ptr<float>(), c.stride(0), c.size(0), c.size(1), a.size(1), addend);
}

void check_shapes(const Tensor& a, const Tensor& b) {
  check_floats(a, 2, "product", "a");
  check_floats(b, 2, "product", "b");
  check_size(b.size(0), a.size(1), "product", "rows of b");
}

}  // namespace

Tensor product(const Tensor& a, const Tensor& b, const Tensor& bias) {
  if (!a.is_cpu()) return bias.defined() ? at::addmm(bias, a, b) : at::mm(a, b);
  check_shapes(a, b);
  if (bias.defined()) {
    check_floats(bias, 1, "product", "bias");
    check_size(bias.size(0), b.size(1), "product", "size of bias");
  }
  const Tensor c = at::empty({a.size(0), b.size(1)}, a.options());
  const Tensor row = bias.defined() ? bias.contiguous() : Tensor();
  multiply(c, a, b, {row.defined() ? row.const_data_ptr<float>() : nullptr, 0});
  return c;
}

void product_into(const Tensor& c, const Tensor& a, const Tensor& b, bool accumulate) {
  check_shapes(a, b);
  check_floats(c, 2, "product", "c");
  check_size(c.size(0), a.size(0), "product", "rows of c");
  check_size(c.size(1), b.size(1), "product", "columns of c");
  check(rows_together(c), "product", "c: expected contiguous rows");
  multiply(c, a, b, accumulate ? Addend{c.const_data_ptr<float>(), c.stride(0)} : Addend{});
}

}  // namespace qad::ops
