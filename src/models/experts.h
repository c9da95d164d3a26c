// The forward pass of a layer's routed experts.
#pragma once

#include "models/model.h"

namespace qad::models {

// x [T, H], not quantised: what the router sees, and under each expert's own scale its rows.
// `beside` [T, H], added to each token's sum, may be undefined. The observer sees the rows of each
// expert that has any. `again`: in the backward pass, when what is clipped was counted before.
at::Tensor run_experts(const Experts& experts, const at::Tensor& x, const at::Tensor& beside,
                       const Observer& observer, bool again);

}  // namespace qad::models
