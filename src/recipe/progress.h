// What training leaves behind while it runs: the progress line, metrics.jsonl and TensorBoard
// events.
#pragma once

#include <memory>

#include "core/file.h"
#include "distill/trainer.h"

namespace qad::recipe {

class TrainingLog {
 public:
  TrainingLog(const fs::path& output, const distill::TrainConfig& config);
  ~TrainingLog();
  void step(const distill::StepInfo& s);
  void validation(const distill::Validation& v);
  void close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qad::recipe
