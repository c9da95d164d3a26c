// What training leaves behind while it runs: the progress line, metrics.jsonl and TensorBoard
// events.
#pragma once

#include <memory>

#include "core/file.h"
#include "distill/trainer.h"

namespace qad::recipe {

class TrainingLog {
 public:
  // Writes output/metrics.jsonl and output/events/. `distilled`: there is a teacher, so a KL.
  TrainingLog(const fs::path& output, bool distilled);
  ~TrainingLog();
  // Before anything else. The lines of metrics.jsonl up to `steps_done` are kept and read back;
  // what a killed run wrote beyond its resume point is not.
  void started(std::int64_t steps_done);
  void step(const distill::StepInfo& s, std::int64_t tokens_per_step);
  void validation(const distill::Validation& v);
  // Every step so far, those before a resume included (read back from metrics.jsonl).
  const std::vector<distill::StepInfo>& steps() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qad::recipe
