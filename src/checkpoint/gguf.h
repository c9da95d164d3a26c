// Opening a GGUF model (llama.cpp's format) as the Hugging Face checkpoint it was made from.
#pragma once

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_file.h"

namespace qad::checkpoint {

// Maps the file. Tensors carry Hugging Face names and shapes; block formats and Llama's q and k
// (whose rows GGUF reorders) are decoded by Tensor::read, the rest lie in Tensor::raw; NVFP4
// weights are those of ModelOpt's layout, X.scale their weight_scale_2 (1 where absent). Metadata
// holds every key-value. Throws Error for malformed files, parts of split files, and architectures,
// value types or tensors that are not understood.
Checkpoint open_gguf(const fs::path& path);

// The same from a parsed file. `owner` keeps file.tensors' bytes alive within the closures.
Checkpoint gguf_checkpoint(GgufFile file, const MappedFile& owner);

}  // namespace qad::checkpoint
