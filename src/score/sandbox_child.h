// What happens between clone(2) and execve(2): the new process builds the world that the program
// will see, then becomes it.
#pragma once

#include <linux/filter.h>
#include <sys/resource.h>

#include <string>
#include <vector>

#include "score/sandbox.h"

namespace qad::score {

// One thing in the new world, made in the order of the list.
struct SandboxPlace {
  enum class Kind { folder, file, link, bind } kind;
  std::string path;
  std::string from;  // file: its contents; link: where it points; bind: the host's file or folder,
                     // written "/host/...", where the host's root hangs while the world is built
};

// Everything the child needs, prepared by its parent, for in the child nothing may be allocated.
struct SandboxPlan {
  std::string user_map, group_map;         // for /proc/self/uid_map and gid_map
  std::string root_options, work_options;  // of the two tmpfs
  std::vector<SandboxPlace> places;
  int input = -1, output = -1, error = -1;  // file descriptors above 2
  struct Limit {
    int resource;
    rlimit value;
  };
  std::vector<Limit> limits;
  std::vector<sock_filter> filter;
  std::vector<std::string> programs;  // paths that are tried in turn
  std::vector<std::string> arguments, environment;
  std::vector<char*> argument_pointers, environment_pointers;  // to those, with a null at the end

  // What went wrong, written by the child, which has its parent's memory until it is the program.
  const char* failed = nullptr;
  const char* failed_at = "";
  int failed_errno = 0;
};

// The world of a job, but for its streams. Throws Error for limits that are not positive, names
// that leave the working folder and `read_only` paths that are not there.
SandboxPlan sandbox_plan(const SandboxJob& job);

// Runs as the only process of new user, mount, process, network, IPC and UTS namespaces, in the
// memory of a parent whose calling thread is suspended (CLONE_VM and CLONE_VFORK): system calls
// only. Returns, with the exit code, only if something failed.
int sandbox_child(void* plan);

}  // namespace qad::score
