// matmul on tensors: where operators take products. As at::mm, a transpose is a view (w.t()).
#pragma once

#include <ATen/core/Tensor.h>

namespace qad::ops {

// a b + bias: a [M, K], b [K, N], bias [N] or undefined -> [M, N]. FP32 on the CPU; elsewhere
// PyTorch's product for that device, in the type of the operands.
at::Tensor product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {});

// c = a b, or c += a b; c [M, N] with contiguous rows.
void product_into(const at::Tensor& c, const at::Tensor& a, const at::Tensor& b,
                  bool accumulate = false);

}  // namespace qad::ops
