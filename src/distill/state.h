// Training state on disk: a folder with some JSON (config.json) and tensors
// (model.safetensors), which appears whole or not at all.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/file.h"
#include "core/json.h"

namespace qad::distill {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

checkpoint::DType dtype_of(const at::Tensor& t);  // Error for a type that no state has

// Replaces `folder`; the earlier one stays until the new one is complete.
void save_state(const fs::path& folder, const Json& about, const NamedTensors& tensors);
Json read_state_json(const fs::path& folder);
// Fills `tensors`, each of which must be in the folder with the same shape.
void read_state_tensors(const fs::path& folder, const NamedTensors& tensors);

}  // namespace qad::distill
