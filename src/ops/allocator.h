// Memory for tensors on the CPU.
#pragma once

namespace qad::ops {

// Makes LibTorch take its blocks from malloc, 64-byte aligned by hand. Its own posix_memalign
// cannot reuse freed blocks of the same size under glibc's settings for large blocks (cli/run.cpp):
// a training run then took a third more memory.
void install_allocator();

}  // namespace qad::ops
