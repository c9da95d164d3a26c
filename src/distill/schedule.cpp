// The learning rate of each step.
#include <cmath>
#include <numbers>

#include "distill/trainer.h"

namespace qad::distill {

double learning_rate_at(const TrainConfig& config, std::int64_t step) {
  if (step < config.warmup_steps)
    return config.learning_rate * static_cast<double>(step + 1) /
           static_cast<double>(config.warmup_steps);
  const std::int64_t last = config.steps - 1;
  const double progress = last <= config.warmup_steps
                              ? 1
                              : std::min(1.0, static_cast<double>(step - config.warmup_steps) /
                                                  static_cast<double>(last - config.warmup_steps));
  double share = 1;  // of the way from final_fraction back up to the full rate
  switch (config.schedule) {
    case Schedule::constant:
      return config.learning_rate;
    case Schedule::linear:
      share = 1 - progress;
      break;
    case Schedule::cosine:
      share = 0.5 * (1 + std::cos(std::numbers::pi * progress));
      break;
  }
  return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * share);
}

}  // namespace qad::distill
