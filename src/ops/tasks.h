// Hands unequal pieces of work to PyTorch's threads.
#pragma once

#include <ATen/Parallel.h>
#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace qad::ops {

// Calls f(task, scratch) for each task, with that many floats of aligned scratch; whichever thread
// is free takes the next one.
template <class F>
void for_tasks(std::int64_t tasks, std::int64_t scratch_floats, F&& f) {
  std::atomic<std::int64_t> next = 0;
  at::parallel_for(0, std::min<std::int64_t>(tasks, at::get_num_threads()), 1,
                   [&](std::int64_t, std::int64_t) {
                     const auto scratch = hwy::AllocateAligned<float>(scratch_floats);
                     for (std::int64_t t = next++; t < tasks; t = next++) f(t, scratch.get());
                   });
}

}  // namespace qad::ops
