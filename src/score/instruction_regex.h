// Regular expressions with the meaning that Python's `re` gives them (3.11, str patterns), run by
// PCRE2: IFEval's keywords are such expressions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qad::score {

class PythonRegex {
 public:
  enum Flags : std::uint32_t { none = 0, ignore_case = 1, multiline = 2 };

  // Throws Error naming the pattern where it is malformed or uses what is not supported: inline
  // flags other than i, m, s, and \N{...}.
  explicit PythonRegex(std::string_view pattern, Flags flags = none);

  // Of valid UTF-8. Throw Error naming the pattern when a match takes more than ten million steps.
  bool search(std::string_view text) const;
  std::size_t count(std::string_view text) const;                       // len(re.findall)
  std::vector<std::string_view> find_all(std::string_view text) const;  // whole matches
  // What its first group (the whole, if it has none) took of the last match; of no match none.
  std::optional<std::string> last_group(std::string_view text) const;
  std::vector<std::string_view> split(std::string_view text) const;  // no groups among them

 private:
  // `f` gets a match and its first group; false ends it.
  using Each = std::function<bool(std::string_view match, std::string_view group)>;
  void for_each(std::string_view text, const Each& f) const;
  struct Code;
  std::shared_ptr<const Code> code_;
};

}  // namespace qad::score
