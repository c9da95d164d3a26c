// Models to measure with: known shapes, random weights.
#pragma once

#include <string>
#include <vector>

#include "models/model.h"

namespace qad::recipe {

// Names of shapes: "smollm2-135m", "qwen2-0.5b", ...
std::vector<std::string> bench_shapes();
// Of such a name, or of a checkpoint. Throws Error for what is neither.
models::ModelConfig bench_config(const std::string& model);
// Normal weights; the same from the same seed.
models::Model random_model(const models::ModelConfig& config, const models::Placement& placement);

}  // namespace qad::recipe
