// One terminal, one progress line at a time: the line that is open is remembered so that notes go
// above it.
#include "core/console.h"

#include <unistd.h>

#include <array>
#include <cstdio>

namespace qad {
namespace {

bool line_is_open = false;

std::string scaled(double value, const char* unit) {
  constexpr std::array<const char*, 6> kPrefix = {"", "k", "M", "G", "T", "P"};
  std::size_t i = 0;
  while (value >= 999.5 && i + 1 < kPrefix.size()) {
    value /= 1000;
    ++i;
  }
  const int digits = i == 0 ? 0 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f} {}{}", value, digits, kPrefix[i], unit);
}

}  // namespace

void note(std::string_view line) {
  if (line_is_open) fmt::print(stderr, "\r\033[K");
  line_is_open = false;
  fmt::print(stderr, "{}\n", line);
}

Progress::Progress(std::string_view what) : what_(what), next_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  if (open_ && line_is_open) fmt::print(stderr, "\n");
  if (open_) line_is_open = false;
}

void Progress::show(std::string_view state, bool last) {
  static const bool terminal = ::isatty(STDERR_FILENO) == 1;
  const auto now = std::chrono::steady_clock::now();
  if (!last && now < next_) return;
  next_ = now + (terminal ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10000));
  if (terminal) {
    fmt::print(stderr, "\r\033[K{}{}", what_, state);
    open_ = line_is_open = true;
  } else {
    fmt::print(stderr, "{}{}\n", what_, state);
  }
  std::fflush(stderr);
}

std::string human_time(double seconds) {
  const auto s = static_cast<long>(seconds + 0.5);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
}

std::string human_bytes(double bytes) {
  return scaled(bytes, "B");
}

std::string human_count(double count) {
  std::string text = scaled(count, "");
  if (text.back() == ' ') text.pop_back();
  return text;
}

}  // namespace qad
