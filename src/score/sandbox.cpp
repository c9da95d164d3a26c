// One job: plan its world, clone a child that builds it and becomes the program, watch until it
// ends.
//
// The child is made by clone with CLONE_VM and CLONE_VFORK, as posix_spawn does: a training program
// has many threads, and its page tables alone can be gigabytes. So nothing is copied, no lock that
// another thread holds can be met half-way, no helper program has to be found, and what the child
// could not do it writes into the plan. What must not be done in borrowed memory is to stay in it,
// so the program itself is process 1 of its namespace; nobody stands above it inside.
#include "score/sandbox.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <future>
#include <memory>
#include <mutex>
#include <string_view>

#include "core/error.h"
#include "score/sandbox_child.h"
#include "score/sandbox_memory.h"

namespace qad::score {
namespace {

using Clock = std::chrono::steady_clock;
using End = SandboxResult::End;

constexpr std::size_t kChildStack = 256 << 10;
constexpr auto kLook = std::chrono::milliseconds(20);  // how often memory is looked at

struct Descriptor {
  int value = -1;
  Descriptor() = default;
  explicit Descriptor(int fd) : value(fd) {
    check(fd >= 0, "sandbox", "no file descriptor: {}", std::strerror(errno));
    if (fd > 2) return;
    value = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);  // 0 to 2 will be the child's own
    ::close(fd);
    check(value >= 0, "sandbox", "no file descriptor: {}", std::strerror(errno));
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { close(); }
  void close() {
    if (value >= 0) ::close(value);
    value = -1;
  }
};

struct Pipe {
  Pipe() : Pipe(make()) {}
  Descriptor read, write;

 private:
  struct Ends {
    int fd[2];
  };
  static Ends make() {
    Ends ends{};
    check(::pipe2(ends.fd, O_CLOEXEC) == 0, "sandbox", "no pipe: {}", std::strerror(errno));
    ::fcntl(ends.fd[0], F_SETFL, O_NONBLOCK);
    return ends;
  }
  explicit Pipe(const Ends& ends) : read(ends.fd[0]), write(ends.fd[1]) {}
};

// No handler of ours may run in the child, which has a copy of them and our memory.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;
  ~BlockedSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

// Process 1 of a sandbox, from its start on. All others inside have ended before it has.
class Process {
 public:
  explicit Process(SandboxPlan& plan);
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (waited_) return;
    kill();
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  int fd() const { return fd_.value; }  // can be read when it has ended
  void kill() { ::kill(pid_, SIGKILL); }
  struct Ended {
    int status = 0;
    double cpu_seconds = 0;
  };
  Ended wait();

 private:
  pid_t pid_ = -1;
  Descriptor fd_;
  bool waited_ = false;
};

Process::Ended Process::wait() {
  Ended ended;
  rusage usage{};
  while (::wait4(pid_, &ended.status, 0, &usage) < 0)
    check(errno == EINTR, "sandbox", "cannot wait for the program: {}; SIGCHLD must not be ignored",
          std::strerror(errno));
  waited_ = true;
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  ended.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  return ended;
}

std::string what_to_do(int error) {
  switch (error) {
    case EPERM:
    case EACCES:
      return "; to allow it, set the sysctls kernel.unprivileged_userns_clone=1 (Debian) or "
             "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), or run as root; start a "
             "container with --privileged, or with --cap-add SYS_ADMIN and --security-opt "
             "seccomp=unconfined --security-opt apparmor=unconfined";
    case ENOSPC:
      return "; raise the sysctls user.max_*_namespaces";
    case ENOSYS:
    case EINVAL:
      return "; needs Linux 5.14 or newer with all kinds of namespaces and seccomp";
    default:
      return "";
  }
}

Process::Process(SandboxPlan& plan) {
  const auto stack = std::make_unique_for_overwrite<std::byte[]>(kChildStack);
  constexpr int kFlags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_NEWUSER | CLONE_NEWNS |
                         CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD;
  int error = 0;
  {
    const BlockedSignals blocked;
    pid_ = ::clone(sandbox_child, stack.get() + kChildStack, kFlags, &plan, &fd_.value);
    error = errno;
  }
  check(pid_ > 0, "sandbox", "cannot make user, mount, process and network namespaces: {}{}",
        std::strerror(error), what_to_do(error));
  if (plan.failed == nullptr) return;
  wait();
  const bool of_job = *plan.failed_at != '\0';  // rather than of the system
  fail("sandbox", "the new process cannot {}{}{}: {}{}", plan.failed, of_job ? " " : "",
       plan.failed_at, std::strerror(plan.failed_errno),
       of_job ? "" : what_to_do(plan.failed_errno));
}

// Sealed memory: unlike a pipe it needs nobody to write while the program reads.
void fill_input(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t wrote = ::write(fd, text.data(), text.size());
    check(wrote > 0, "sandbox", "cannot keep the program's input: {}", std::strerror(errno));
    text.remove_prefix(static_cast<std::size_t>(wrote));
  }
  ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
  ::lseek(fd, 0, SEEK_SET);
}

// Appends what lies in the pipe, `room` bytes at most and no more of it. False when more came.
bool drain(int fd, std::string& to, std::int64_t& room) {
  char buffer[1 << 16];
  for (ssize_t got = 0; (got = ::read(fd, buffer, sizeof buffer)) > 0;) {
    const auto kept = std::min<std::int64_t>(got, room);
    to.append(buffer, static_cast<std::size_t>(kept));
    room -= kept;
    if (kept < got) return false;
  }
  return true;
}

// Until process 1 has ended; by which limit, if it was killed for one.
std::optional<End> watch(Process& process, const Pipe& output, const Pipe& error,
                         const SandboxLimits& limits, Clock::time_point begin,
                         SandboxResult& result) {
  std::optional<End> killed;
  const auto kill = [&](End why) {
    if (!killed) process.kill();
    killed = killed.value_or(why);
  };
  std::int64_t room = limits.output_bytes;
  const auto deadline = begin + std::chrono::duration<double>(limits.wall_seconds);
  auto look = Clock::now();
  pollfd events[] = {
      {process.fd(), POLLIN, 0}, {output.read.value, POLLIN, 0}, {error.read.value, POLLIN, 0}};
  while (true) {
    const auto now = Clock::now();
    if (!killed && now >= deadline) kill(End::wall_limit);
    if (!killed && now >= look) {
      if (memory_of_tree(process.pid()) > limits.memory_bytes) kill(End::memory_limit);
      look = Clock::now() + kLook;
    }
    // Not to wake up by a stream that is closed, or that nobody will read any more.
    if (::poll(events, killed ? 1 : std::size(events), killed ? -1 : kLook.count()) < 0) continue;
    const bool ended = events[0].revents != 0;  // and so nothing more will be written
    for (int i : {1, 2}) {
      if (events[i].fd < 0 || (!ended && events[i].revents == 0) || killed) continue;
      if (!drain(events[i].fd, i == 1 ? result.output : result.error, room))
        kill(End::output_limit);
      if ((events[i].revents & POLLHUP) && !ended) events[i].fd = -1;
    }
    if (ended) return killed;
  }
}

// Credentials belong to a thread on Linux; by plain system calls only the calling one changes,
// while the C library's functions change all. The kernel counts no processes of the true root, so
// the program has to be somebody else outside, too.
void become_nobody() {
  constexpr long kNobody = 65534;
  const bool ok = ::syscall(SYS_setgroups, 0, nullptr) == 0 &&
                  ::syscall(SYS_setresgid, kNobody, kNobody, kNobody) == 0 &&
                  ::syscall(SYS_setresuid, kNobody, kNobody, kNobody) == 0;
  check(ok, "sandbox", "root cannot become the user nobody: {}; run as an ordinary user",
        std::strerror(errno));
  // The change made /proc/self of every process with our memory root's own, and there the child
  // maps its user.
  ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

// If called by root, in a thread that ends afterwards.
SandboxResult run(const SandboxJob& job) {
  const auto begin = Clock::now();
  static std::mutex one_start;
  std::unique_lock starting(one_start, std::defer_lock);
  if (::geteuid() == 0) {
    starting.lock();  // another's become_nobody would close /proc/self to our child again
    become_nobody();
  }
  SandboxPlan plan = sandbox_plan(job);
  Descriptor input(::memfd_create("input", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  fill_input(input.value, job.input);
  Pipe output, error;
  plan.input = input.value;
  plan.output = output.write.value;
  plan.error = error.write.value;
  Process process(plan);
  if (starting) starting.unlock();
  for (Descriptor* ours : {&input, &output.write, &error.write}) ours->close();

  SandboxResult result;
  const auto killed = watch(process, output, error, job.limits, begin, result);
  const auto [status, cpu_seconds] = process.wait();
  result.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const bool signalled = WIFSIGNALED(status);
  result.code = signalled ? WTERMSIG(status) : WEXITSTATUS(status);
  result.end = killed.value_or(signalled ? End::signalled : End::exited);
  // Nothing inside can kill process 1, so it was this limit or the system that is out of memory.
  // The kernel enforces the limit by ticks, and reports time measured otherwise.
  const bool used_up = cpu_seconds > 0.5 * job.limits.cpu_seconds;
  if (result.end == End::signalled && result.code == SIGKILL && used_up)
    result.end = End::cpu_limit;
  return result;
}

}  // namespace

SandboxResult run_in_sandbox(const SandboxJob& job) {
  if (::geteuid() != 0) return run(job);
  return std::async(std::launch::async, [&] { return run(job); }).get();
}

const std::optional<std::string>& sandbox_lacks() {
  static const std::optional<std::string> lacks = []() -> std::optional<std::string> {
    SandboxJob job;
    job.command = {"sh", "-c", "sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & echo bad"};
    job.limits.processes = 4;
    try {
      if (run_in_sandbox(job).output.empty()) return std::nullopt;
      return "[sandbox] the number of processes cannot be limited; needs Linux 5.14 or "
             "newer, where RLIMIT_NPROC counts in each user namespace";
    } catch (const Error& e) {
      return e.what();
    }
  }();
  return lacks;
}

}  // namespace qad::score
