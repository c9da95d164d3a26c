// Hands unequal pieces of work to threads, with room to work in.
#pragma once

#include <hwy/aligned_allocator.h>

#include <atomic>
#include <cstdint>

#include "ops/threads.h"

namespace qad::ops {

// Calls f(task, scratch) for each task, with that many floats of aligned scratch; whichever thread
// is free takes the next one.
template <class F>
void for_tasks(std::int64_t tasks, std::int64_t scratch_floats, F&& f) {
  std::atomic<std::int64_t> next = 0;
  for_pieces(threads_for(tasks, 1), [&](std::int64_t) {
    if (next >= tasks) return;
    const auto scratch = hwy::AllocateAligned<float>(scratch_floats);
    for (std::int64_t t = next++; t < tasks; t = next++) f(t, scratch.get());
  });
}

}  // namespace qad::ops
