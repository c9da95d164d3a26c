// By reading rather than by a cgroup: a cgroup of one's own takes a system that delegates them.
#include "score/sandbox_memory.h"

#include <fmt/format.h>

#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace qad::score {
namespace {

// The lines that count look like "RssAnon:      1234 kB".
std::int64_t memory_of(std::istream& status) {
  std::int64_t sum = 0;
  for (std::string key, rest; status >> key; std::getline(status, rest)) {
    std::int64_t kilobytes = 0;
    if (key == "RssAnon:" || key == "RssShmem:" || key == "VmSwap:") status >> kilobytes;
    sum += kilobytes << 10;
  }
  return sum;
}

// Each thread lists the children it made.
void add_children(pid_t pid, std::vector<pid_t>& to) {
  std::error_code gone;
  for (const auto& thread : fs::directory_iterator(fmt::format("/proc/{}/task", pid), gone)) {
    std::ifstream children(thread.path() / "children");
    for (pid_t child = 0; children >> child;) to.push_back(child);
  }
}

}  // namespace

std::int64_t memory_of_tree(pid_t pid) {
  std::ifstream first(fmt::format("/proc/{}/status", pid));
  check(first.is_open() && fs::exists(fmt::format("/proc/{0}/task/{0}/children", pid)), "sandbox",
        "/proc does not show the memory and children of process {}; it must be mounted, without "
        "hidepid, on a kernel with CONFIG_PROC_CHILDREN",
        pid);
  std::int64_t sum = memory_of(first);
  std::vector<pid_t> open;
  add_children(pid, open);
  while (!open.empty()) {
    const pid_t next = open.back();
    open.pop_back();
    std::ifstream status(fmt::format("/proc/{}/status", next));
    sum += memory_of(status);
    add_children(next, open);
  }
  return sum;
}

}  // namespace qad::score
