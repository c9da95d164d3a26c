// What must be the same for a run to go on where another stopped, and the resume point's JSON.
#pragma once

#include "core/json.h"
#include "distill/trainer.h"

namespace qad::distill {

// Every setting that decides the weights after a step, by its name in TrainConfig.
Json to_json(const TrainConfig& config);
// A number over the bits of the tensors.
std::uint64_t fingerprint(const std::vector<at::Tensor>& tensors);
// Throws Error naming the first key whose value differs.
void check_same_run(const Json& saved, const Json& now, const std::string& folder);

Json to_json(const std::vector<Validation>& list);
std::vector<Validation> validations_of(const Json& list);

}  // namespace qad::distill
