// POSIX underneath: std::ofstream hides errno and cannot sync. A partial file or folder is locked
// (flock) by the process that writes it; one that nobody has locked was left by a process that
// died, and goes at the next write.
#include "core/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/error.h"

namespace qad {
namespace {

constexpr std::string_view kPartial = ".partial-";

// ".NAME.partial-": what the names of NAME's unfinished versions start with.
std::string partial_prefix(const fs::path& path) {
  return fmt::format(".{}{}", path.filename().string(), kPartial);
}

fs::path beside(const fs::path& path) {
  static std::atomic<int> count = 0;
  return path.parent_path() / fmt::format("{}{}-{}", partial_prefix(path), ::getpid(), count++);
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

bool lock(int fd) {
  return fd >= 0 && ::flock(fd, LOCK_EX | LOCK_NB) == 0;
}

void remove_leftovers(const fs::path& path) {
  const std::string prefix = partial_prefix(path);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(parent_of(path), error)) {
    if (!entry.path().filename().string().starts_with(prefix)) continue;
    const int fd = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    std::error_code ignored;
    if (lock(fd)) fs::remove_all(entry.path(), ignored);
    if (fd >= 0) ::close(fd);
  }
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // the rename stands; only its durability across a power cut is unsure
  ::fsync(fd);
  ::close(fd);
}

// "out/", "." and links name the folder behind them: that is what is to be replaced.
fs::path resolved(const fs::path& path) {
  std::error_code error;
  fs::path full = fs::weakly_canonical(fs::absolute(path), error);
  if (error) full = fs::absolute(path);
  return full.has_filename() ? full : full.parent_path();
}

// Replacing a folder deletes what is in it: only one that is plainly an earlier result may go.
void check_replaceable(const fs::path& path, const std::string& mark) {
  std::error_code error;
  const auto status = fs::symlink_status(path, error);
  if (!fs::exists(status)) return;
  check(fs::is_directory(status), "write", "{}: a file of this name is in the way of a folder",
        path.string());
  if (fs::is_empty(path, error)) return;
  check(!error, "write", "{}: {}", path.string(), error.message());
  check(fs::exists(path / mark), "write",
        "{}: refusing to replace a folder with other contents (no {} in it); choose another name "
        "or remove it",
        path.string(), mark);
  for (const auto& entry : fs::directory_iterator(path))
    check(
        !entry.is_directory(), "write",
        "{}: refusing to replace a folder that holds a folder {}; choose another name or remove it",
        path.string(), entry.path().filename().string());
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not hang
  check(fd >= 0, "open", "{}: {}", path.string(), std::strerror(errno));
  struct stat st {};
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    ::close(fd);
    fail("open", "{}: not a regular file", path.string());
  }
  const std::size_t size = static_cast<std::size_t>(st.st_size);
  void* address = nullptr;
  if (size > 0) {
    address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    ::close(fd);
    check(address != MAP_FAILED, "open", "{}: cannot map {} bytes: {}", path.string(), size,
          std::strerror(error));
  } else {
    ::close(fd);
  }
  map_ = {new std::span<const std::byte>(static_cast<const std::byte*>(address), size),
          [](const std::span<const std::byte>* span) {
            if (!span->empty()) ::munmap(const_cast<std::byte*>(span->data()), span->size());
            delete span;
          }};
}

std::span<const std::byte> MappedFile::bytes() const {
  return map_ ? *map_ : std::span<const std::byte>{};
}

std::string_view MappedFile::text() const {
  const auto b = bytes();
  return {reinterpret_cast<const char*>(b.data()), b.size()};
}

std::string read_text(const fs::path& path) {
  return std::string(MappedFile(path).text());
}

void write_file(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)), temporary_(beside(path_)) {
  remove_leftovers(path_);
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  check(fd_ >= 0, "write", "{}: {}", path_.string(), std::strerror(errno));
  lock(fd_);  // a file system without locks never has leftovers removed either
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::write(fd_, p, std::min<std::size_t>(bytes, std::size_t{1} << 30));
    if (n < 0 && errno == EINTR) continue;
    check(n > 0, "write", "{}: {}; nothing was left behind", path_.string(), std::strerror(errno));
    p += n;
    bytes -= static_cast<std::size_t>(n);
  }
}

void AtomicFile::commit() {
  const bool synced = ::fsync(fd_) == 0;
  const int error = errno;
  const bool closed = ::close(fd_) == 0;
  fd_ = -1;
  if (!synced || !closed || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int why = synced ? errno : error;
    ::unlink(temporary_.c_str());
    fail("write", "{}: {}; nothing was left behind", path_.string(), std::strerror(why));
  }
  sync_folder(path_.parent_path());
}

AtomicFolder::AtomicFolder(fs::path path, std::string mark)
    : path_(resolved(path)), mark_(std::move(mark)), temporary_(beside(path_)) {
  check_replaceable(path_, mark_);
  std::error_code error;
  fs::create_directories(parent_of(path_), error);
  remove_leftovers(path_);
  if (!error) fs::create_directory(temporary_, error);
  check(!error, "write", "{}: {}", path_.string(), error.message());
  lock_ = ::open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  lock(lock_);
}

AtomicFolder::~AtomicFolder() {
  if (!committed_) {
    std::error_code ignored;
    fs::remove_all(temporary_, ignored);
  }
  if (lock_ >= 0) ::close(lock_);
}

void AtomicFolder::commit() {
  check_replaceable(path_, mark_);
  sync_folder(temporary_);
  // With no folder there a rename is enough; an existing one changes places with the new one, in
  // one step.
  const bool replaces = fs::exists(path_);
  int failed =
      replaces ? ::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE)
               : ::rename(temporary_.c_str(), path_.c_str());
  if (failed != 0 && replaces && (errno == EINVAL || errno == ENOSYS)) {
    // A file system that cannot exchange (some network ones): for an instant neither is there.
    const fs::path aside = beside(path_);
    failed = ::rename(path_.c_str(), aside.c_str());
    if (failed == 0 && (failed = ::rename(temporary_.c_str(), path_.c_str())) != 0) {
      const int why = errno;
      ::rename(aside.c_str(), path_.c_str());
      errno = why;
    }
    if (failed == 0) temporary_ = aside;
  }
  check(failed == 0, "write", "{}: {}; nothing was left behind", path_.string(),
        std::strerror(errno));
  committed_ = true;
  sync_folder(parent_of(path_));
  std::error_code ignored;
  if (replaces) fs::remove_all(temporary_, ignored);  // now the old one
}

}  // namespace qad
