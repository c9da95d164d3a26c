// The losses out of the head operator's list of numbers, and what every implementation demands of
// them; inline, since the plug-in of a device does not link this room.
#pragma once

#include <c10/util/ArrayRef.h>

#include <cmath>

#include "ops/checks.h"
#include "ops/loss_weights.h"

namespace qad::ops {

// values: in the order of for_each_loss.
inline LossWeights unpack_losses(c10::ArrayRef<double> values, bool teacher) {
  LossWeights w;
  std::size_t n = 0;
  for_each_loss(w, [&](const char*, double& member) {
    if (n < values.size()) member = values[n];
    ++n;
  });
  check_size(static_cast<std::int64_t>(values.size()), static_cast<std::int64_t>(n), "head_loss",
             "number of loss weights");
  check(w.temperature > 0 && std::isfinite(w.temperature), "head_loss",
        "temperature: expected a positive number, found {}", w.temperature);
  check(teacher || w.divergences() == 0, "head_loss",
        "a divergence needs a teacher; without one only cross_entropy is possible");
  return w;
}

}  // namespace qad::ops
