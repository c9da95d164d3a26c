// What llama.cpp's files of a nemotron_h hold: the names, shapes and keys that its converter gives
// (conversion/nemotron.py; names of gguf-py's tensor_mapping.py).
#pragma once

#include <string>
#include <vector>

#include "checkpoint/out_model.h"

namespace qad::checkpoint {

// A tensor of a GGUF before it has blocks.
struct GgufWeight {
  std::string name;              // ggml's
  std::vector<OutWeight> parts;  // one; or a layer's experts in order, stacked as [experts, ...]
  bool stacked = false;
  bool f32 = false;  // FP32 whatever the file's other matrices are
};

bool is_hybrid(const OutModel& m);

// "nemotron_h", or "nemotron_h_moe" if there are experts.
std::string hybrid_architecture(const OutModel& m);

// All tensors: Mamba's A as -exp(A_log), its norm by groups, its convolution without the dimension
// of one, experts stacked. Throws Error for a name that such files lack, for experts that are not
// alike, and for plain MLPs beside experts, which llama.cpp's graph does not have.
std::vector<GgufWeight> hybrid_weights(const OutModel& m);

// The keys under "nemotron_h." or "nemotron_h_moe.".
void add_hybrid_keys(const OutModel& m, Json& keys);

}  // namespace qad::checkpoint
