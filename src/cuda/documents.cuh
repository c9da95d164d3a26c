// Where a token or a chunk of tokens is: searches in offsets that rise.
#pragma once

#include <cstdint>

namespace qad::cuda {

// The last of `count` parts that begins at `i` or before it: of those that begin at one place the
// only one that holds anything. offsets [count] or more, the first no more than i.
__device__ inline std::int64_t part_of(const std::int32_t* offsets, std::int64_t count,
                                       std::int64_t i) {
  std::int64_t low = 0, high = count - 1;
  while (low < high) {
    const std::int64_t middle = (low + high + 1) / 2;
    if (offsets[middle] <= i)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

}  // namespace qad::cuda
