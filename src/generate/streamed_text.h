// Text as its tokens come: decoded, and ended before a stop string.
#pragma once

#include <string>
#include <vector>

#include "generate/generate.h"
#include "generate/stop.h"

namespace qad::generate {

class StreamedText {
 public:
  // Behind `context`, the prompt. Error for an empty stop string.
  StreamedText(const text::Tokenizer& tokenizer, std::vector<text::TokenId> context,
               std::vector<std::string> stop)
      : stream_(tokenizer, std::move(context)), stop_(std::move(stop)) {}

  // The text that `id` makes certain; empty once a stop string has been found.
  std::string add(text::TokenId id) { return stop_.next(stream_.next(id)); }
  bool stopped() const { return stop_.found().has_value(); }
  // What was held back, when no more tokens come.
  std::string end() {
    const std::string last = stop_.next(stream_.rest());
    return last + stop_.rest();
  }

 private:
  TextStream stream_;
  StopStrings stop_;
};

}  // namespace qad::generate
