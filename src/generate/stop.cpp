// Plain comparison at each byte: stop strings are few and short, and so are pieces.
#include "generate/stop.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace qad::generate {

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  for (const std::string& s : strings_)
    check(!s.empty(), "generate", "stop: expected strings of at least one character, found \"\"");
}

std::string StopStrings::next(std::string_view piece) {
  if (found_) return {};
  std::string text = std::exchange(held_, {}) + std::string(piece);
  // A string that ends in this piece began no earlier than what is held.
  for (std::size_t end = text.size() - piece.size() + 1; end <= text.size(); ++end) {
    const auto upto = std::string_view(text).substr(0, end);
    for (std::size_t i = 0; i < strings_.size(); ++i)
      if (upto.ends_with(strings_[i]) && (!found_ || strings_[i].size() > strings_[*found_].size()))
        found_ = i;
    if (found_) {
      text.resize(end - strings_[*found_].size());
      return text;
    }
  }
  std::size_t hold = 0;
  for (const std::string& s : strings_)
    for (std::size_t n = std::min(s.size() - 1, text.size()); n > hold; --n)
      if (text.ends_with(std::string_view(s).substr(0, n))) hold = n;
  held_ = text.substr(text.size() - hold);
  text.resize(text.size() - hold);
  return text;
}

std::string StopStrings::rest() {
  return std::exchange(held_, {});
}

}  // namespace qad::generate
