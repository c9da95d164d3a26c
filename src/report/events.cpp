// TFRecord framing and the three protobuf messages of a scalar summary, written out by hand: a
// dozen lines against a dependency on protobuf.
#include "report/events.h"

#include <sstream>

#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/error.h"

namespace qad::report {
namespace {

template <class T>
void little_endian(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>((value >> (8 * i)) & 0xFF);
}

void varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7F) | 0x80);
  out += static_cast<char>(value);
}

// Protobuf wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
void tag(std::string& out, std::uint32_t field, std::uint32_t wire) {
  varint(out, field << 3 | wire);
}
void message(std::string& out, std::uint32_t field, std::string_view content) {
  tag(out, field, 2);
  varint(out, content.size());
  out += content;
}

std::uint32_t masked_crc(std::string_view data) {
  const std::uint32_t crc = crc32c(data);
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

std::string record(std::string_view data) {
  std::string out;
  little_endian<std::uint64_t>(out, data.size());
  little_endian(out, masked_crc(out));
  out += data;
  little_endian(out, masked_crc(data));
  return out;
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string event_header() {  // Event.wall_time = 1 (double)
  std::string event;
  tag(event, 1, 1);
  little_endian(event, std::bit_cast<std::uint64_t>(wall_time()));
  return event;
}

fs::path event_path(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, "events", "{}: {}", folder.string(), error.message());
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) std::strcpy(host.data(), "host");
  const std::string stem =
      fmt::format("events.out.tfevents.{:.0f}.{}.{}", wall_time(), host.data(), getpid());
  fs::path path = folder / stem;
  for (int i = 1; fs::exists(path); ++i)
    path = folder / fmt::format("{}.{}", stem, i);  // two in one second
  return path;
}

}  // namespace

std::uint32_t crc32c(std::string_view data) {
  static const auto kTable = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
      table[i] = c;
    }
    return table;
  }();
  std::uint32_t crc = ~0u;
  for (const char c : data) crc = kTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF] ^ crc >> 8;
  return ~crc;
}

AppendFile::AppendFile(fs::path path, bool truncate)
    : path_(std::move(path)), file_(std::fopen(path_.c_str(), truncate ? "wb" : "ab")) {
  check(file_ != nullptr, "open", "{}: {}", path_.string(), std::strerror(errno));
}

void AppendFile::write(std::string_view data) {
  const bool ok = std::fwrite(data.data(), 1, data.size(), file_.get()) == data.size() &&
                  std::fflush(file_.get()) == 0;
  check(ok, "write", "{}: {}", path_.string(), std::strerror(errno));
}

EventWriter::EventWriter(const fs::path& folder) : file_(event_path(folder), true) {
  std::string event = event_header();
  message(event, 3, "brain.Event:2");  // Event.file_version
  file_.write(record(event));
}

void EventWriter::scalars(std::int64_t step,
                          const std::vector<std::pair<std::string, double>>& values) {
  std::string summary;
  for (const auto& [name, value] : values) {
    std::string entry;  // Summary.Value: tag = 1, simple_value = 2 (float)
    message(entry, 1, name);
    tag(entry, 2, 5);
    little_endian(entry, std::bit_cast<std::uint32_t>(static_cast<float>(value)));
    message(summary, 1, entry);  // Summary.value
  }
  std::string event = event_header();
  tag(event, 2, 0);  // Event.step
  varint(event, static_cast<std::uint64_t>(step));
  message(event, 5, summary);  // Event.summary
  file_.write(record(event));
}

void read_log(const fs::path& path,
              const std::function<void(const Json& line, std::int64_t number)>& each) {
  if (!fs::exists(path)) return;
  const std::string text = read_text(path);
  const std::string whole = text.substr(0, text.rfind('\n') + 1);  // npos + 1 = 0
  std::istringstream lines(whole);
  std::int64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    each(parse_json(line, fmt::format("{}:{}", path.string(), number)), number);
  }
  if (whole.size() < text.size()) write_file(path, whole);
}

}  // namespace qad::report
