// Files into a GPU's memory. Threads read into pinned buffers, from which the GPU fetches on
// streams of its own while the next bytes are read; a copy out of mapped pages pays for their
// faults and then passes through a buffer of the driver's.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/file.h"

namespace qad::models {

// to.nbytes() bytes of a file.
struct FileCopy {
  const MappedFile* file;
  std::size_t offset;  // bytes
  at::Tensor to;       // contiguous, on a GPU
};

// Returns once all is there. Every `to` is on one device. Throws Error naming a file that cannot be
// read.
void copy_to_device(std::vector<FileCopy> copies);

}  // namespace qad::models
