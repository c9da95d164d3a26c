// What the user sees while the program works: notes and one progress line, both on stderr so that
// stdout stays for results.
#pragma once

#include <fmt/core.h>

#include <chrono>
#include <string>
#include <string_view>

namespace qad {

// A line on stderr, above the progress line if there is one.
void note(std::string_view line);

template <class... Args>
void note(fmt::format_string<Args...> format, Args&&... args) {
  note(std::string_view(fmt::format(format, std::forward<Args>(args)...)));
}

// Rewrites one line on a terminal; elsewhere (a log file) prints a line every ten seconds and at
// the end.
class Progress {
 public:
  explicit Progress(std::string_view what);
  ~Progress();
  void show(std::string_view state, bool last = false);

 private:
  std::string what_;
  std::chrono::steady_clock::time_point next_;
  bool open_ = false;
};

std::string human_time(double seconds);  // "42 s", "3 min 20 s", "2 h 05 min"
std::string human_bytes(double bytes);   // "1.06 MB" (powers of 1000)
std::string human_count(double count);   // "260 k", "1.23 M"

}  // namespace qad
