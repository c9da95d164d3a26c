// MLX's NVFP4 (mode "nvfp4" of its quantized layers, as mlx-lm loads it): X.weight U32 [N, K/8],
// whose bytes are ModelOpt's codes, and X.scales U8 [N, K/16], E4M3; weight-only, and no global
// scale: values are e2m1 * e4m3. config.json's "quantization" names the mode, and modules that are
// left alone. Source: mlx 0.32, mlx-lm 0.32.
#pragma once

#include "checkpoint/formats.h"

namespace qad::checkpoint {

// Gives the tensors and metadata of a folder in this layout their names of ModelOpt's; nothing for
// another. Throws Error for other modes and malformed parts.
void adopt_mlx(Checkpoint& c);

// A global scale that is a power of two moves, exactly, into the norm before q, k, v or before gate
// and up. The other weights have no norm of their own before them and are written in BF16.
OutFolder mlx_folder(const OutModel& m, std::vector<std::string>& changes);

}  // namespace qad::checkpoint
