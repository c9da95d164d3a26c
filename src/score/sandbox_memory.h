// What a process and all that descend from it have in memory.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace qad::score {

// Bytes of private and shared memory, resident or swapped out, by /proc; files' pages are not
// counted, as the system can take those back, and pages that a fork shares count for each process.
// Processes that end meanwhile count nothing. Throws Error when /proc does not show `pid`, which
// has to exist (ended, but not waited for, is enough).
std::int64_t memory_of_tree(pid_t pid);

}  // namespace qad::score
