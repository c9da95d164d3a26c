// Opening a llama2.c model (Karpathy's run.c, format version 0) as a Hugging Face Llama.
#pragma once

#include "checkpoint/checkpoint.h"

namespace qad::checkpoint {

// Rows of q and k come in half-split order. A feed-forward width that is no multiple of 16 is
// padded with zeros to the next one, because NVFP4 blocks hold 16 values: rows of gate and up,
// columns of down. The added neurons are silu(0) * 0 = 0 and meet zero columns, so no output
// changes, and their gradients are zero too. Throws Error for an impossible header, a size that
// doesn't match the header exactly, and the versions 1 and 2 ("ak42").
Checkpoint open_llama2c(const fs::path& path);

}  // namespace qad::checkpoint
