// Runs a program that nobody has read, one that a model wrote, so that it can do nothing but fail:
// a process of its own in new Linux namespaces, with no network, no other processes, no files of
// the host but the system's programs (read-only), an empty folder that vanishes with it, and limits
// on time, memory, files, processes and output.
//
//   auto result = run_in_sandbox({.command = {"python3", "a.py"}, .files = {{"a.py", code}}});
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/file.h"

namespace qad::score {

struct SandboxLimits {
  double wall_seconds = 10;
  double cpu_seconds = 10;  // of each process, rounded up to whole ones
  // Address space of each process, and memory of all together (looked at 50 times a second).
  std::int64_t memory_bytes = std::int64_t{2} << 30;
  std::int64_t file_bytes = std::int64_t{64} << 20;    // of all files, which lie in memory
  std::int64_t output_bytes = std::int64_t{16} << 20;  // of stdout and stderr together
  int processes = 32;                                  // and threads
};

struct SandboxFile {
  std::string name;  // below the working folder: "a.py", "package/a.py"
  std::string contents;
};

struct SandboxJob {
  // The first word is a path, or a name in /usr/local/bin, /usr/bin or /bin.
  std::vector<std::string> command{};
  // All that is in the working folder, /tmp/job.
  std::vector<SandboxFile> files{};
  std::string input{};  // stdin
  // "NAME=value"; all there is beside PATH, HOME, TMPDIR and LANG.
  std::vector<std::string> environment{};
  // Files and folders of the host that it may read, at the same absolute path, beside /usr and what
  // programs in there need.
  std::vector<fs::path> read_only{};
  SandboxLimits limits{};
};

struct SandboxResult {
  enum class End {
    exited,        // code: the exit code
    signalled,     // code: the signal
    wall_limit,    // killed, for this and the following
    cpu_limit,     // of the first process; others just die of it
    memory_limit,  // of all together; one alone meets the end of its address space
    output_limit,
  };
  End end = End::exited;
  int code = 0;
  std::string output, error;  // stdout and stderr, up to output_bytes
  double seconds = 0;         // wall time, the sandbox's own included
};

// Runs the job to its end; no process of it is left then. May be called by many threads at once.
// What the program does is never an Error; that the sandbox can't be had, or the command not be
// started, is one, and names what is missing.
//
// The program is process 1 of its own world: when it ends, so do the processes it started; signals
// that it sends to itself without handling them have no effect. Called by root, it runs as the user
// nobody, which then must be able to read what `read_only` names.
SandboxResult run_in_sandbox(const SandboxJob& job);

// Why this machine can't have a sandbox and what to do about it; nothing if it can. Tried once.
const std::optional<std::string>& sandbox_lacks();

}  // namespace qad::score
