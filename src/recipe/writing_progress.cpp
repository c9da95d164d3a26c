// Speed is that of all new tokens, kept or not; time left follows from what was done meanwhile.
#include "recipe/writing_progress.h"

#include <algorithm>

namespace qad::recipe {

WritingProgress::WritingProgress(std::string_view what, const generate::Engine& engine, double done)
    : line_(what),
      engine_(engine),
      tokens_before_(engine.counts().new_tokens),
      done_before_(done) {}

double WritingProgress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void WritingProgress::show(const std::string& state, double done, double all, bool last) {
  const double took = seconds(), meanwhile = done - done_before_;
  const auto tokens = static_cast<double>(engine_.counts().new_tokens - tokens_before_);
  std::string text =
      fmt::format("{}  {} tokens/s", state, human_count(tokens / std::max(took, 1e-9)));
  if (meanwhile > 0 && !last)
    text += fmt::format("  {} left", human_time((all - done) * took / meanwhile));
  line_.show(text, last);
}

}  // namespace qad::recipe
