// What `qad verify` asks of a checkpoint whatever its architecture: values that are finite, NVFP4
// parts that fit together, scales that serving engines may fuse, and metadata that tells the truth
// about the tensors.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace qad::checkpoint {

// One line each, "where: what is wrong"; empty when all is well. Reads every byte of the weights.
// Malformed metadata is a problem too, not an Error.
std::vector<std::string> problems(const Checkpoint& c);

}  // namespace qad::checkpoint
