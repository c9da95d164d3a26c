// POSIX underneath: std::ofstream hides errno and cannot sync.
#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace qad {
namespace {

fs::path beside(const fs::path& path) {
  fs::path clean = path.has_filename() ? path : path.parent_path();
  return clean.parent_path() / fmt::format(".{}.partial-{}", clean.filename().string(), ::getpid());
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY);
  if (fd < 0) return;  // the rename stands; only its durability across a power cut is unsure
  ::fsync(fd);
  ::close(fd);
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
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
    check(address != MAP_FAILED, "open", "{}: cannot map {} bytes: {}", path.string(), size, std::strerror(error));
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
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  check(fd_ >= 0, "write", "{}: {}", path_.string(), std::strerror(errno));
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

AtomicFolder::AtomicFolder(fs::path path) : path_(std::move(path)), temporary_(beside(path_)) {
  std::error_code error;
  fs::remove_all(temporary_, error);
  fs::create_directories(temporary_, error);
  check(!error, "write", "{}: {}", path_.string(), error.message());
}

AtomicFolder::~AtomicFolder() {
  if (temporary_.empty()) return;
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
}

void AtomicFolder::commit() {
  std::error_code error;
  fs::path old;
  if (fs::exists(path_)) {
    old = beside(path_);
    old += "-old";
    fs::remove_all(old, error);
    fs::rename(path_, old, error);
    check(!error, "write", "{}: cannot move the old folder aside: {}", path_.string(), error.message());
  }
  fs::rename(temporary_, path_, error);
  if (error) {
    std::error_code ignored;
    if (!old.empty()) fs::rename(old, path_, ignored);
    fail("write", "{}: {}", path_.string(), error.message());
  }
  temporary_.clear();
  sync_folder(path_.parent_path());
  if (!old.empty()) fs::remove_all(old, error);
}

}  // namespace qad
