// What a run would take on several GPUs.
#pragma once

#include <string>

#include "distill/trainer.h"

namespace qad::recipe {

// A table of what each of 1, 4 and 8 GPUs with `room` bytes would hold in training, by kind, and
// the largest micro-batch that fits (distill::plan_memory): without any weights, for a model that
// this machine cannot hold. `config`: of all cards together.
std::string cards_table(const distill::TrainConfig& config, const models::ModelConfig& student,
                        const models::ModelConfig& teacher, const quantize::Policy& policy,
                        std::int64_t epoch_tokens, double room);

}  // namespace qad::recipe
