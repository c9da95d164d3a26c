// A run's numbers while it goes: TensorBoard event files and JSON lines. Both are flushed at every
// write, so that a reader (or what is left after a crash) sees whole records.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/file.h"
#include "core/json.h"

namespace qad::report {

// CRC-32C (Castagnoli) of `data`.
std::uint32_t crc32c(std::string_view data);

// A file one appends to. Throws Error naming path and errno's text, also for a full disk.
class AppendFile {
 public:
  AppendFile(fs::path path, bool truncate);
  void write(std::string_view data);  // written and flushed
  const fs::path& path() const { return path_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  fs::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

// Scalars for TensorBoard: <folder>/events.out.tfevents.<seconds>.<host>.<pid>, a new file each
// time; TensorBoard shows the files of a folder as one run. Source: TensorFlow's event.proto,
// summary.proto and record_writer.
class EventWriter {
 public:
  explicit EventWriter(const fs::path& folder);  // makes the folder
  void scalars(std::int64_t step, const std::vector<std::pair<std::string, double>>& values);
  const fs::path& path() const { return file_.path(); }

 private:
  AppendFile file_;
};

// The whole lines of a MetricsLog with their numbers from 1; of a file that is not there none. A
// last line that a kill has cut is then removed. Throws Error naming file and line, and what `each`
// throws, and leaves the file as it was.
void read_log(const fs::path& path,
              const std::function<void(const Json& line, std::int64_t number)>& each);

// One JSON object a line. A resumed run appends.
class MetricsLog {
 public:
  explicit MetricsLog(fs::path path, bool append = false) : file_(std::move(path), !append) {}
  void write(const Json& line) {
    file_.write(line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  }

 private:
  AppendFile file_;
};

}  // namespace qad::report
