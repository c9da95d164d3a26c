// A check, not a parser: nothing is kept but the kinds of the containers that are open.
#include "score/instruction_checks.h"

namespace qad::score {
namespace {

class JsonText {
 public:
  explicit JsonText(std::string_view s) : s_(s) {}

  bool valid() {
    std::string open;  // '[' or '{' for each container around this place
    for (;;) {
      // A value, or the end of a container that is empty.
      skip_space();
      if (take('[')) {
        skip_space();
        if (!take(']')) {
          open += '[';
          continue;
        }
      } else if (take('{')) {
        skip_space();
        if (!take('}')) {
          open += '{';
          if (!key()) return false;
          continue;
        }
      } else if (!scalar()) {
        return false;
      }
      // What follows a value: ends of containers, then a comma or the end of the text.
      for (skip_space(); !open.empty() && take(open.back() == '[' ? ']' : '}'); skip_space())
        open.pop_back();
      if (open.empty()) return i_ == s_.size();
      if (!take(',')) return false;
      skip_space();
      if (open.back() == '{' && !key()) return false;
    }
  }

 private:
  bool take(std::string_view word) {
    if (s_.substr(i_, word.size()) != word) return false;
    i_ += word.size();
    return true;
  }
  bool take(char c) { return take(std::string_view(&c, 1)); }
  void skip_space() { i_ = std::min(s_.find_first_not_of(" \t\n\r", i_), s_.size()); }
  bool digits() {
    const std::size_t begin = i_;
    i_ = std::min(s_.find_first_not_of("0123456789", i_), s_.size());
    return i_ > begin;
  }

  bool key() {
    if (!string()) return false;
    skip_space();
    return take(':');
  }
  bool scalar() {
    if (i_ < s_.size() && s_[i_] == '"') return string();
    for (const std::string_view word : {"true", "false", "null", "NaN", "Infinity", "-Infinity"})
      if (take(word)) return true;
    return number();
  }
  bool number() {
    take('-');
    if (!take('0') && !digits()) return false;
    // A point or an exponent without digits is no part of the number, and so an error behind it.
    for (const std::string_view sign : {".", "eE"}) {
      const std::size_t begin = i_;
      if (i_ == s_.size() || sign.find(s_[i_]) == sign.npos) continue;
      ++i_;
      if (sign != "." && !take('-')) take('+');
      if (!digits()) i_ = begin;
    }
    return true;
  }
  bool string() {
    if (!take('"')) return false;
    while (i_ < s_.size()) {
      const char c = s_[i_++];
      if (c == '"') return true;
      if (static_cast<unsigned char>(c) < 0x20) return false;
      if (c != '\\') continue;
      if (i_ == s_.size()) return false;
      const char escaped = s_[i_++];
      if (escaped == 'u') {
        const std::string_view hex = s_.substr(i_, 4);
        if (hex.size() < 4 || hex.find_first_not_of("0123456789abcdefABCDEF") != hex.npos)
          return false;
        i_ += 4;
      } else if (std::string_view("\"\\/bfnrt").find(escaped) == std::string_view::npos) {
        return false;
      }
    }
    return false;
  }

  std::string_view s_;
  std::size_t i_ = 0;
};

}  // namespace

bool is_json(std::string_view text) {
  return JsonText(text).valid();
}

}  // namespace qad::score
