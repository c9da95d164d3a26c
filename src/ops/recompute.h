// Activation recomputation (gradient checkpointing): results that are computed again in the
// backward pass, so that until then only what they are made of is kept.
#pragma once

#include <functional>

#include "ops/autograd.h"

namespace qad::ops {

// make(inputs, again) -> results. It is called now, with nothing recorded, and in the backward pass
// with again = true, recorded, when it must give the same bits; whatever it refers to must live
// until then, and it waits for no device. `inputs` may hold undefined tensors, which it gets as
// such. `parameters` are all leaves whose gradients it can give, other than the inputs; they grow
// in their .grad as without recomputation.
using Make = std::function<Tensors(const Tensors& inputs, bool again)>;
Tensors recomputed(const char* operation, const Tensors& inputs, const Tensors& parameters,
                   const Make& make);

}  // namespace qad::ops
