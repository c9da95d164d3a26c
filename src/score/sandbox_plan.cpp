// Which parts of the host a sandbox shows, and its limits as the kernel knows them.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>
#include <system_error>

#include <fmt/format.h>
#include <unistd.h>

#include "core/error.h"
#include "score/sandbox_child.h"
#include "score/sandbox_filter.h"

namespace qad::score {
namespace {

using Kind = SandboxPlace::Kind;

constexpr const char* kSystem[] = {"/usr",
                                   "/bin",
                                   "/sbin",
                                   "/lib",
                                   "/lib32",
                                   "/lib64",
                                   "/libx32",
                                   "/etc/alternatives",
                                   "/etc/ld.so.cache"};
constexpr const char* kDevices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random",
                                    "/dev/urandom"};
constexpr const char* kProgramFolders[] = {"/usr/local/bin", "/usr/bin", "/bin"};
constexpr int kInodes = 4096;  // names take memory, too
constexpr int kUser = 1000;    // inside; outside it is whoever called
constexpr uid_t kNobody = 65534;
constexpr rlim_t kOpenFiles = 128, kStack = 8 << 20;

class Places {
 public:
  Places() {
    for (const char* path : kSystem) show(path);
    for (const char* path : kDevices) show(path);
    add(Kind::link, "/dev/shm", "/tmp");
    folder("/tmp/job");
  }

  // Binds the host's file or folder, unless it is seen already.
  void show(const fs::path& path) {
    std::error_code error;
    const bool seen = std::any_of(shown_.begin(), shown_.end(), [&](const fs::path& from) {
      return std::mismatch(from.begin(), from.end(), path.begin(), path.end()).first == from.end();
    });
    if (seen || !fs::exists(path, error)) return;
    shown_.push_back(path);
    folder(path.parent_path());
    if (path.parent_path() == "/" && fs::is_symlink(path)) {  // /bin of a merged /usr
      add(Kind::link, path, fs::read_symlink(path));
      return;
    }
    if (fs::is_directory(path)) {
      folder(path);
    } else {
      add(Kind::file, path, "");
    }
    add(Kind::bind, path, "/host" + fs::canonical(path).string());
  }

  void file(const fs::path& path, const std::string& contents) {
    folder(path.parent_path());
    add(Kind::file, path, contents);
  }

  std::vector<SandboxPlace> take() { return std::move(places_); }

 private:
  void add(Kind kind, const fs::path& path, std::string from) {
    places_.push_back({kind, path.string(), std::move(from)});
  }
  void folder(const fs::path& path) {
    if (path == "/" || path == "/tmp" || !folders_.insert(path).second) return;
    folder(path.parent_path());
    add(Kind::folder, path, "");
  }

  std::vector<SandboxPlace> places_;
  std::vector<fs::path> shown_;
  std::set<fs::path> folders_;
};

bool inside(const fs::path& path) {  // a name that stays below where it begins
  return !path.empty() && path.is_relative() && path.has_filename() &&
         std::none_of(path.begin(), path.end(),
                      [](const fs::path& p) { return p == ".." || p == "."; });
}

std::vector<SandboxPlace> places_of(const SandboxJob& job) {
  Places places;
  for (const fs::path& path : job.read_only) {
    std::error_code error;
    check(path.is_absolute() && path == path.lexically_normal() && path != "/" && path != "/tmp",
          "sandbox", "{}: expected a plain absolute path to show to programs", path.string());
    const bool there = fs::exists(path, error);
    const bool nobody = error == std::errc::permission_denied && ::getuid() == kNobody;
    check(there, "sandbox", "{}: cannot be shown to programs: {}{}", path.string(),
          error ? error.message() : "no such file or folder",
          nobody ? "; the sandbox of root runs as the user nobody" : "");
    places.show(path);
  }
  for (const auto& [name, contents] : job.files) {
    check(inside(name), "sandbox", "{}: expected a file name inside of the working folder", name);
    places.file(fs::path("/tmp/job") / name, contents);
  }
  return places.take();
}

std::vector<SandboxPlan::Limit> limits_of(const SandboxLimits& limits) {
  check(limits.wall_seconds > 0 && limits.cpu_seconds > 0 && limits.memory_bytes > 0 &&
            limits.file_bytes > 0 && limits.output_bytes > 0 && limits.processes > 0,
        "sandbox", "expected every limit to be positive");
  std::vector<SandboxPlan::Limit> all;
  const auto limit = [&](int resource, rlim_t wanted) {
    rlimit now{};
    ::getrlimit(static_cast<__rlimit_resource_t>(resource), &now);
    wanted = std::min(wanted, now.rlim_max);  // the caller's own limits may be narrower
    all.push_back({resource, {wanted, wanted}});
  };
  limit(RLIMIT_CPU, static_cast<rlim_t>(std::ceil(limits.cpu_seconds)));
  limit(RLIMIT_AS, static_cast<rlim_t>(limits.memory_bytes));
  limit(RLIMIT_FSIZE, static_cast<rlim_t>(limits.file_bytes));
  limit(RLIMIT_NPROC, static_cast<rlim_t>(limits.processes));
  limit(RLIMIT_NOFILE, kOpenFiles);
  limit(RLIMIT_STACK, kStack);
  limit(RLIMIT_MEMLOCK, 0);
  limit(RLIMIT_CORE, 1);  // 0 would still start a handler that the host's core_pattern names
  return all;
}

void point(const std::vector<std::string>& texts, std::vector<char*>& pointers) {
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
}

}  // namespace

SandboxPlan sandbox_plan(const SandboxJob& job) {
  check(!job.command.empty() && !job.command[0].empty(), "sandbox", "expected a command");
  SandboxPlan plan;
  plan.user_map = fmt::format("{} {} 1", kUser, ::geteuid());
  plan.group_map = fmt::format("{} {} 1", kUser, ::getegid());
  plan.limits = limits_of(job.limits);
  plan.root_options = fmt::format("mode=755,size=1m,nr_inodes={}", kInodes);
  plan.work_options = fmt::format("mode=755,size={},nr_inodes={}", job.limits.file_bytes, kInodes);
  plan.places = places_of(job);
  plan.filter = sandbox_filter();
  const std::string& program = job.command[0];
  if (program.find('/') != program.npos) {
    plan.programs = {program};
  } else {
    for (const char* folder : kProgramFolders)
      plan.programs.push_back(fmt::format("{}/{}", folder, program));
  }
  plan.arguments = job.command;
  plan.environment = {"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp/job", "TMPDIR=/tmp",
                      "LANG=C.UTF-8"};
  plan.environment.insert(plan.environment.end(), job.environment.begin(), job.environment.end());
  point(plan.arguments, plan.argument_pointers);
  point(plan.environment, plan.environment_pointers);
  return plan;
}

}  // namespace qad::score
