// Many tensors a launch: a table of them travels as the kernel's argument (up to 32 KiB, which every
// device of compute capability 7 and a driver for CUDA 12.1 take), and each block of threads finds
// its tensor in it. A table has `of`, `first` (the first block of each tensor, and the end) and
// `tensors`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace qad::cuda {

// By halving; empty tensors are passed over.
template <class Table>
__device__ int tensor_of_block(const Table& table) {
  const auto block = static_cast<std::int32_t>(blockIdx.x);
  int t = 0;
#pragma unroll
  for (int step = 128; step > 0; step /= 2)
    if (t + step < table.tensors && table.first[t + step] <= block) t += step;
  return t;
}

// Calls launch(table) for as many neighbours that are alike as fit into one; it fills in the rest.
template <class Table, class Tensor, class Alike, class Launch>
void for_tables(std::span<const Tensor> tensors, Alike alike, Launch launch) {
  constexpr std::size_t kMost = sizeof(Table::of) / sizeof(Tensor);
  static_assert(kMost <= 256 && sizeof(Table) <= 32764);
  for (std::size_t at = 0; at < tensors.size();) {
    Table table{};
    for (const std::size_t first = at;
         at < tensors.size() && at - first < kMost && alike(tensors[first], tensors[at]); ++at)
      table.of[table.tensors++] = tensors[at];
    launch(table);
  }
}

}  // namespace qad::cuda
