// What is wrong with a checkpoint, as a list: names and shapes against its configuration, scales
// that fused matrices must share, values that are not finite. `qad verify` prints it; load() throws
// its first line.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "models/model.h"

namespace qad::models {

// Everything, values included (reads the whole checkpoint). Empty: it loads. Malformed input is
// listed, not thrown.
std::vector<std::string> problems(const checkpoint::Checkpoint& c);

// Names, shapes, types and scales; values of plain tensors are not read. `model` is shape_of() the
// same checkpoint.
std::vector<std::string> structural_problems(const Model& model, const checkpoint::Checkpoint& c);

// Fills `out` (t.elements() floats); what is wrong with the values, or empty.
std::string read_finite(const checkpoint::Tensor& t, float* out);

// A tied model's own lm_head.weight, when the file has one, must equal the embedding.
std::string tied_head_problem(const Model& model, const checkpoint::Checkpoint& c);

}  // namespace qad::models
