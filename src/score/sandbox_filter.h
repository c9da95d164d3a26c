// The system calls that a sandboxed program has no business with.
#pragma once

#include <linux/filter.h>

#include <vector>

namespace qad::score {

// A classic BPF program for seccomp(2): everything passes except calls that trace processes, mount,
// make namespaces, load kernel code, hold memory outside of the limits or open sockets other than
// AF_UNIX. They fail as on a kernel without them (EPERM, ENOSYS, EAFNOSUPPORT), so the program goes
// on. Calls of another architecture kill.
std::vector<sock_filter> sandbox_filter();

}  // namespace qad::score
