// Reads from top to bottom as the child does it: become somebody in a new user namespace, build the
// new file system, swap the roots, give up every right, become the program.
#include "score/sandbox_child.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <string_view>

namespace qad::score {
namespace {

bool say(SandboxPlan& plan, bool ok, const char* what, const char* where = "") {
  if (!ok) {
    plan.failed = what;
    plan.failed_at = where;
    plan.failed_errno = errno;
  }
  return ok;
}

bool write_all(const char* path, std::string_view text, int flags) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC | flags, 0644);
  if (fd < 0) return false;
  while (!text.empty()) {
    const ssize_t wrote = ::write(fd, text.data(), text.size());
    if (wrote < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(wrote));
  }
  return ::close(fd) == 0;
}

bool map_user(SandboxPlan& plan) {
  return say(plan, write_all("/proc/self/setgroups", "deny", 0), "fix its groups") &&
         say(plan, write_all("/proc/self/uid_map", plan.user_map, 0), "map its user") &&
         say(plan, write_all("/proc/self/gid_map", plan.group_map, 0), "map its group");
}

// Read-only with all that is mounted below it. The host's devices are bound one by one and so may
// be used.
bool bind(const SandboxPlace& place) {
  const bool device = place.path.starts_with("/dev/");
  mount_attr wanted{};
  wanted.attr_set =
      MOUNT_ATTR_NOSUID | (device ? MOUNT_ATTR_NOEXEC : MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV);
  return ::mount(place.from.c_str(), place.path.c_str(), nullptr, MS_BIND | MS_REC, nullptr) == 0 &&
         ::mount_setattr(AT_FDCWD, place.path.c_str(), AT_RECURSIVE, &wanted, sizeof wanted) == 0;
}

bool make(const SandboxPlace& place) {
  using Kind = SandboxPlace::Kind;
  const char* path = place.path.c_str();
  switch (place.kind) {
    case Kind::folder:
      return ::mkdir(path, 0755) == 0 || errno == EEXIST;
    case Kind::file:
      return write_all(path, place.from, O_CREAT);
    case Kind::link:
      return ::symlink(place.from.c_str(), path) == 0;
    case Kind::bind:
      return bind(place);
  }
  return false;
}

bool make_all(SandboxPlan& plan) {
  return std::all_of(plan.places.begin(), plan.places.end(), [&](const SandboxPlace& place) {
    return say(plan, make(place), "make", place.path.c_str());
  });
}

// An empty file system becomes "/", with the host's at "/host" until everything needed is bound.
bool build_world(SandboxPlan& plan) {
  constexpr unsigned long kPlain = MS_NOSUID | MS_NODEV;
  constexpr const char* kAnywhere = "/tmp";  // where the new root is mounted before it is the root
  return say(plan, ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0,
             "take its mounts apart from the host's") &&
         say(plan, ::mount("tmpfs", kAnywhere, "tmpfs", kPlain, plan.root_options.c_str()) == 0,
             "mount a tmpfs") &&
         say(plan, ::mkdir("/tmp/host", 0755) == 0, "make", "/host") &&
         say(plan, ::syscall(SYS_pivot_root, kAnywhere, "/tmp/host") == 0 && ::chdir("/") == 0,
             "change its root") &&
         say(plan, ::mkdir("/tmp", 0755) == 0, "make", "/tmp") &&
         say(plan, ::mount("tmpfs", "/tmp", "tmpfs", kPlain, plan.work_options.c_str()) == 0,
             "mount a tmpfs", "/tmp") &&
         make_all(plan) &&
         say(plan, ::umount2("/host", MNT_DETACH) == 0 && ::rmdir("/host") == 0,
             "let go of the host's files") &&
         say(plan,
             ::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | kPlain, nullptr) ==
                 0,
             "make its root read-only") &&
         say(plan, ::chdir("/tmp/job") == 0, "enter", "/tmp/job");
}

bool take_streams(SandboxPlan& plan) {
  return say(plan,
             ::dup2(plan.input, 0) == 0 && ::dup2(plan.output, 1) == 1 &&
                 ::dup2(plan.error, 2) == 2 && ::close_range(3, ~0U, 0) == 0,
             "take its streams");
}

bool give_up_rights(SandboxPlan& plan) {
  for (const auto& [resource, value] : plan.limits) {
    const bool ok = ::setrlimit(static_cast<__rlimit_resource_t>(resource), &value) == 0;
    if (!say(plan, ok, "limit its resources")) return false;
  }
  // Capabilities go with execve, as the user is not 0; these keep any file from giving them back.
  for (unsigned long right = 0; ::prctl(PR_CAPBSET_DROP, right, 0, 0, 0) == 0;) ++right;
  const sock_fprog filter{static_cast<unsigned short>(plan.filter.size()), plan.filter.data()};
  return say(plan, ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "renounce new privileges") &&
         say(plan, ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0,
             "filter its system calls");
}

void become_ordinary_process() {
  struct sigaction usual {};
  usual.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) ::sigaction(signal, &usual, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::umask(022);
}

}  // namespace

int sandbox_child(void* argument) {
  SandboxPlan& plan = *static_cast<SandboxPlan*>(argument);
  // Dies with the thread that made it, so also when the whole program is killed.
  if (!say(plan, ::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "be killed with its parent")) return 1;
  become_ordinary_process();
  ::setsid();  // no terminal
  ::sethostname("sandbox", 7);
  if (!map_user(plan) || !build_world(plan) || !take_streams(plan) || !give_up_rights(plan))
    return 1;
  for (const std::string& program : plan.programs) {
    ::execve(program.c_str(), plan.argument_pointers.data(), plan.environment_pointers.data());
    if (errno != ENOENT) break;
  }
  say(plan, false, "start", plan.arguments[0].c_str());
  return 1;
}

}  // namespace qad::score
