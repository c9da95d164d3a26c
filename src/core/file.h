// Files: read whole, map, and write so that they appear whole or not at all (written beside,
// synced, renamed).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace qad {

namespace fs = std::filesystem;

// A read-only memory map and its open file; copies share both. Throws Error naming the path and
// errno's text.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const fs::path& path);
  std::span<const std::byte> bytes() const;
  std::string_view text() const;
  const fs::path& path() const { return path_; }
  // Gives the pages that were read back to the system; they are read again when touched again.
  void release_pages() const { release_pages(bytes()); }
  void release_pages(std::span<const std::byte> part) const;
  // Has the system read these pages while we do something else.
  void prefetch(std::span<const std::byte> part) const;
  // Fills `out` with the bytes from `offset` on, past the map: large reads of bytes that are needed
  // once cost no page faults. Throws Error if the file no longer has them.
  void read(std::size_t offset, std::span<std::byte> out) const;

 private:
  struct Map {
    int fd = -1;
    std::span<const std::byte> bytes;
    Map() = default;
    Map(const Map&) = delete;
    Map& operator=(const Map&) = delete;
    ~Map();
  };
  fs::path path_;
  std::shared_ptr<const Map> map_;
};

std::string read_text(const fs::path& path);

// Replaces `path` by `content` in one rename; on any failure `path` is as it was and the temporary
// is gone.
void write_file(const fs::path& path, std::string_view content);

// A file that grows beside its final name and takes it in commit(). Destroyed without commit, it
// vanishes.
class AtomicFile {
 public:
  explicit AtomicFile(fs::path path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();
  void write(const void* data, std::size_t bytes);  // throws Error on a full disk
  void write(std::string_view text) { write(text.data(), text.size()); }
  // The same from `offset` on, which is not where write() goes on; what nobody wrote is 0.
  void write_at(std::uint64_t offset, const void* data, std::size_t bytes);
  void commit();

 private:
  fs::path path_, temporary_;
  int fd_ = -1;
};

// Throws the Error that AtomicFolder(path, mark) would throw now, so that a command can fail before
// its work rather than after it. Only an empty folder or an earlier result, one that holds the file
// `mark` and no folders, may be replaced; and a folder of this name must be possible there at all.
void check_replaceable(const fs::path& path, const std::string& mark);

// A folder that is filled beside its final name and takes it in commit(). An existing folder is
// replaced whole; check_replaceable holds at once and again in commit(). What a killed process left
// unfinished under this name is removed.
class AtomicFolder {
 public:
  AtomicFolder(fs::path path, std::string mark);
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  ~AtomicFolder();
  const fs::path& path() const { return temporary_; }  // write here
  void commit();

 private:
  fs::path path_;
  std::string mark_;
  fs::path temporary_;
  int lock_ = -1;
  bool committed_ = false;
};

}  // namespace qad
