// What the engines that serve checkpoints refuse, or get wrong without a word: one named rule for
// each row of docs/formats.md's table. A rule looks at names, shapes, scalars and metadata, not at
// the values of weights; those are verify.h's.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace qad::checkpoint {

// "vllm", "sglang", "trtllm", "llama.cpp", "transformers".
std::span<const std::string_view> engines();

struct Finding {
  std::string_view rule;  // "fused-scales"
  bool fatal;             // the engine fails or computes something else; else it copes, at a cost
  std::string text;       // where, and what happens
};

// Throws Error for an unknown engine. Malformed metadata is a finding ("metadata"), not an Error.
std::vector<Finding> findings(const Checkpoint& c, std::string_view engine);

// Every rule's name, for documentation and tests.
std::vector<std::string_view> rule_names();

}  // namespace qad::checkpoint
