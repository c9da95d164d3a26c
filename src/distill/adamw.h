// AdamW (Loshchilov, Hutter 2019) as PyTorch's torch.optim.AdamW computes it, in one pass over
// gradient, moments and FP32 master, and the gradient norm that clipping needs.
#pragma once

#include <cstdint>
#include <span>

namespace qad::distill {

struct AdamW {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  std::int64_t step;  // of this update, from 1: bias correction
  double scale;       // multiplies the gradient (clipping)
};

// All four arrays hold n floats; m, v and master are updated in place.
void adamw_update(const AdamW& a, const float* gradient, float* m, float* v, float* master,
                  std::int64_t n);

// Sum of squares in double, in an order that does not depend on the number of threads.
double sum_of_squares(std::span<const float> x);

}  // namespace qad::distill
