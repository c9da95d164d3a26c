// Memory for tensors on the CPU.
#pragma once

namespace qad::ops {

// To be called first thing: keeps large blocks with the process, and makes LibTorch take its blocks
// from malloc, 64-byte aligned by hand. Its own posix_memalign cannot reuse freed blocks of the
// same size under these settings: a training run then took a third more memory.
void install_allocator();

}  // namespace qad::ops
