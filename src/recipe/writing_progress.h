// The line that is shown while an engine writes many texts: what is done, how fast, how long it
// will take.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "core/console.h"
#include "generate/engine.h"

namespace qad::recipe {

class WritingProgress {
 public:
  // `done` of what is to be done is there before, in the unit of show(). `engine` must outlive it.
  WritingProgress(std::string_view what, const generate::Engine& engine, double done);

  // `state` says it in words: "3 of 7 completions".
  void show(const std::string& state, double done, double all, bool last);
  double seconds() const;  // since it was made

 private:
  Progress line_;
  const generate::Engine& engine_;
  std::int64_t tokens_before_;
  double done_before_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace qad::recipe
