// Tells autograd where an operator's result came from. torch::autograd::Function would do the same
// with templates that cost each operator five seconds to compile.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <initializer_list>
#include <vector>

namespace qad::ops {

using Tensors = std::vector<at::Tensor>;

// The gradients of the inputs, in their order, undefined where there is none, from that of the
// output and the saved tensors, which it may hand on but not change. Nothing in it is recorded.
using Backward = std::function<Tensors(const at::Tensor& grad, Tensors saved)>;
// The same for an operator with several outputs: a gradient is undefined where nothing used the
// output, but not all of them are.
using BackwardOfSeveral = std::function<Tensors(const Tensors& grads, Tensors saved)>;

// Whether an operator on these must call record: some of them need a gradient, and it is wanted.
bool recording(std::initializer_list<const at::Tensor*> inputs);

// `output`, freshly computed by `operation`, came from `inputs` (undefined ones are allowed). What
// the backward pass needs of tensors belongs in `saved` (an output itself may be there), which is
// freed after use and checked against PyTorch's own changes in place; `backward` itself must hold
// none.
void record(const char* operation, const at::Tensor& output, const Tensors& inputs,
            const Tensors& saved, Backward backward);
void record(const char* operation, const Tensors& outputs, const Tensors& inputs,
            const Tensors& saved, BackwardOfSeveral backward);

}  // namespace qad::ops
