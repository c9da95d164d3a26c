// What must be the same for a run to go on where another stopped, and the resume point's JSON.
#pragma once

#include "core/json.h"
#include "distill/trainer.h"
#include "ops/adamw.h"

namespace qad::distill {

// Every setting that decides the weights after a step, by its name in TrainConfig.
Json to_json(const TrainConfig& config);
// All that decides a run's bits but its data: those settings, the number of threads, the weights it
// starts from (`masters`), the teacher's (null: none), and how each linear is quantised.
Json identity_of(const TrainConfig& config, const models::Model& student,
                 const std::vector<ops::Master>& masters, const models::Model* teacher,
                 nvfp4::GlobalScale rule);
// A number over the bits of the tensors.
std::uint64_t fingerprint(const std::vector<at::Tensor>& tensors);
std::uint64_t fingerprint(const std::vector<data::Batch>& batches);
// Over what decides a model's states: its values, and where it is quantised its inputs' scales.
std::uint64_t fingerprint(const models::Model& model);
// Throws Error naming the first key whose value differs.
void check_same_run(const Json& saved, const Json& now, const std::string& folder);

Json to_json(const std::vector<Validation>& list);
std::vector<Validation> validations_of(const Json& list);

}  // namespace qad::distill
