// Loss, metrics and gradient of one token from its two rows of logits.
#pragma once

#include <cstdint>

#include "ops/loss_weights.h"

namespace qad::ops {

struct RowResult {
  double loss = 0;  // the weighted sum that LossWeights names
  double kl = 0, ce = 0, teacher_ce = 0;
  bool agree = false;  // some token is the largest of both
};

// student and teacher: logits [vocabulary]; teacher null: none. With `gradient`, student becomes
// gradient_scale * d loss / d student; both rows are scratch from then on.
RowResult head_row(float* student, float* teacher, std::int64_t vocabulary, std::int64_t label,
                   const LossWeights& loss, bool gradient, double gradient_scale);

}  // namespace qad::ops
