// The regular expressions of tokenizer.json, run by PCRE2 with the meanings Oniguruma gives them,
// which is what the `tokenizers` library runs them with.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

namespace qad::text {

// A part of a text that a pattern matched, or that lies between two matches. Byte offsets.
struct Span {
  std::size_t begin, end;
  bool is_match;
};

class Regex {
 public:
  // Throws Error for malformed patterns and for Oniguruma syntax that means something else in
  // PCRE2.
  explicit Regex(std::string_view pattern);
  // Appends the spans that cover `text` (valid UTF-8) from end to end.
  void split(std::string_view text, std::vector<Span>& out) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

}  // namespace qad::text
