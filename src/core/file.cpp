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
#include <utility>

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

bool try_lock(int fd) {
  return fd >= 0 && ::flock(fd, LOCK_EX | LOCK_NB) == 0;
}

void remove_leftovers(const fs::path& path) {
  const std::string prefix = partial_prefix(path);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(parent_of(path), error)) {
    if (!entry.path().filename().string().starts_with(prefix)) continue;
    const int fd = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    std::error_code ignored;
    if (try_lock(fd)) fs::remove_all(entry.path(), ignored);
    if (fd >= 0) ::close(fd);
  }
}

bool is_at(const fs::path& path, int fd) {
  struct stat here {};
  struct stat held {};
  return ::lstat(path.c_str(), &here) == 0 && ::fstat(fd, &held) == 0 &&
         here.st_dev == held.st_dev && here.st_ino == held.st_ino;
}

struct Partial {
  fs::path path;
  int fd;
};

// A new, locked file or folder beside `path`. Before it is locked, another process may take it for
// a leftover and remove it; and one of another PID namespace may use its name. Then the next name
// is tried.
template <class Create>
Partial make_partial(const fs::path& path, Create create) {
  remove_leftovers(path);
  int why = 0;
  for (int attempt = 0; attempt < 100; ++attempt) {
    Partial partial{beside(path), -1};
    partial.fd = create(partial.path.c_str());
    why = errno;
    if (partial.fd < 0 && (why == EEXIST || why == ENOENT)) continue;
    if (partial.fd < 0) break;
    // A file system without locks never has leftovers removed either.
    while (::flock(partial.fd, LOCK_EX) != 0 && errno == EINTR) {
    }
    if (is_at(partial.path, partial.fd)) return partial;
    ::close(partial.fd);
    why = ENOENT;
  }
  fail("write", "{}: {}", path.string(), std::strerror(why));
}

int create_file(const char* path) {
  return ::open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
}

int create_folder(const char* path) {
  if (::mkdir(path, 0777) != 0) return -1;
  const int fd = ::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const int why = errno;
  if (fd < 0) ::rmdir(path);
  errno = why;
  return fd;
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

bool is_mount_point(const fs::path& path) {
  struct statx st {};
  return ::statx(AT_FDCWD, path.c_str(), 0, 0, &st) == 0 &&
         (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

}  // namespace

MappedFile::Map::~Map() {
  if (!bytes.empty()) ::munmap(const_cast<std::byte*>(bytes.data()), bytes.size());
  if (fd >= 0) ::close(fd);
}

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const auto map = std::make_shared<Map>();
  map->fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not hang
  check(map->fd >= 0, "open", "{}: {}", path.string(), std::strerror(errno));
  struct stat st {};
  check(::fstat(map->fd, &st) == 0 && S_ISREG(st.st_mode), "open", "{}: not a regular file",
        path.string());
  if (const auto size = static_cast<std::size_t>(st.st_size); size > 0) {
    void* const address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, map->fd, 0);
    check(address != MAP_FAILED, "open", "{}: cannot map {} bytes: {}", path.string(), size,
          std::strerror(errno));
    map->bytes = {static_cast<const std::byte*>(address), size};
  }
  map_ = map;
}

std::span<const std::byte> MappedFile::bytes() const {
  return map_ ? map_->bytes : std::span<const std::byte>{};
}

void MappedFile::read(std::size_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t n =
        map_ ? ::pread(map_->fd, out.data(), out.size(), static_cast<off_t>(offset)) : 0;
    if (n < 0 && errno == EINTR) continue;
    check(n > 0, "read", "{}: {} bytes at {}: {}", path_.string(), out.size(), offset,
          n < 0 ? std::strerror(errno) : "the file ends before them");
    offset += static_cast<std::size_t>(n);
    out = out.subspan(static_cast<std::size_t>(n));
  }
}

namespace {

// madvise on the pages that lie in `part`, which may share its first and last with others.
void advise(std::span<const std::byte> part, int advice) {
  if (part.empty()) return;
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(part.data()) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(part.data()) + part.size();
  ::madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace

// A page that others still read is read again.
void MappedFile::release_pages(std::span<const std::byte> part) const {
  advise(part, MADV_DONTNEED);
}

void MappedFile::prefetch(std::span<const std::byte> part) const {
  advise(part, MADV_WILLNEED);
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

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  Partial partial = make_partial(path_, create_file);
  temporary_ = std::move(partial.path);
  fd_ = partial.fd;
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

void AtomicFile::write_at(std::uint64_t offset, const void* data, std::size_t bytes) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd_, p, std::min<std::size_t>(bytes, std::size_t{1} << 30),
                               static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    check(n > 0, "write", "{}: {}; nothing was left behind", path_.string(), std::strerror(errno));
    p += n;
    offset += static_cast<std::uint64_t>(n);
    bytes -= static_cast<std::size_t>(n);
  }
}

void AtomicFile::commit() {
  // Renamed while it is still locked: until then it looks like a leftover to nobody.
  if (::fsync(fd_) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0)
    fail("write", "{}: {}; nothing was left behind", path_.string(), std::strerror(errno));
  ::close(std::exchange(fd_, -1));
  sync_folder(path_.parent_path());
}

// Replacing a folder deletes what is in it.
void check_replaceable(const fs::path& path, const std::string& mark) {
  const fs::path full = resolved(path);
  std::error_code error;
  fs::path parent = full.parent_path();
  while (!fs::exists(parent, error) && parent.has_relative_path()) parent = parent.parent_path();
  check(fs::is_directory(parent, error), "write", "{}: {} is not a folder", path.string(),
        parent.string());
  const bool writable = ::access(parent.c_str(), W_OK | X_OK) == 0;
  check(writable, "write", "{}: cannot write in {}: {}", path.string(), parent.string(),
        std::strerror(errno));

  const auto status = fs::symlink_status(full, error);
  if (!fs::exists(status)) return;
  check(fs::is_directory(status), "write", "{}: a file of this name is in the way of a folder",
        path.string());
  check(!is_mount_point(full), "write",
        "{}: is a mount point, which cannot be replaced; choose a folder in it", path.string());
  const bool empty = fs::is_empty(full, error);
  check(!error, "write", "{}: {}", path.string(), error.message());
  if (empty) return;
  check(fs::is_regular_file(full / mark, error), "write",
        "{}: refusing to replace a folder with other contents (no {} in it); choose another folder "
        "or remove it",
        path.string(), mark);
  for (const auto& entry : fs::directory_iterator(full))
    check(!entry.is_directory(), "write",
          "{}: refusing to replace a folder that holds a folder {}; choose another folder or "
          "remove it",
          path.string(), entry.path().filename().string());
}

AtomicFolder::AtomicFolder(fs::path path, std::string mark)
    : path_(resolved(path)), mark_(std::move(mark)) {
  check_replaceable(path_, mark_);
  std::error_code error;
  fs::create_directories(parent_of(path_), error);
  check(!error, "write", "{}: {}", path_.string(), error.message());
  Partial partial = make_partial(path_, create_folder);
  temporary_ = std::move(partial.path);
  lock_ = partial.fd;
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
