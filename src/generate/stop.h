// Stop strings over text that streams: what may be given out, and where the text ends.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qad::generate {

// Text goes in by pieces and comes out but for a tail that may become a stop string. The text ends
// before the stop string that is complete first; of those complete at the same byte, before the
// longest. Neither that nor what comes out in all depends on how the text is cut into pieces. With
// stop strings and pieces in UTF-8, what comes out is cut between characters.
class StopStrings {
 public:
  // Error if one is empty. Without any, text passes unchanged.
  explicit StopStrings(std::vector<std::string> strings);

  // What `piece` makes certain; empty once a stop string has been found.
  std::string next(std::string_view piece);
  // The tail held back, when no more text comes; empty if a stop string was found.
  std::string rest();
  // The index of the string that ended the text.
  std::optional<std::size_t> found() const { return found_; }

 private:
  std::vector<std::string> strings_;
  std::string held_;  // the longest tail that begins a stop string
  std::optional<std::size_t> found_;
};

}  // namespace qad::generate
