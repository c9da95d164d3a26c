// A file of prompts completed by a model, as JSON lines that a killed run goes on writing.
#pragma once

#include <cstdint>

#include "core/file.h"
#include "generate/engine.h"
#include "recipe/steps.h"

namespace qad::recipe {

struct CompletionsJob {
  // .txt: a prompt a line. .jsonl: `prompt` (a text), or `messages`, which need a chat template.
  fs::path prompts, out;
  bool chat = false;         // prompts are users' messages, too
  std::int64_t samples = 1;  // of each prompt
  generate::SamplingOptions sampling;
  generate::EngineOptions engine;
};

struct CompletionsResult {
  std::int64_t completions = 0, earlier = 0;  // written; found in `out` from a run before
  generate::Engine::Counts counts;
  double seconds = 0;
  bool interrupted = false;
};

// Appends to `out` a line for each completion, in the order in which they end:
//   {"index": prompt's line from 0, "sample": 0.., "prompt" or "messages", "completion",
//    "token_ids", "finish_reason": "stop" | "length", "model": its path, "sampling": {...}}
// A completion depends on the model, its prompt, its sample's number and the sampling alone. Those
// that `out` has already, of the same prompts, sampling and model, are not made again; Error for
// others. A line that a kill has cut is removed. Ctrl-C ends between two passes.
CompletionsResult write_completions(const LoadedModel& loaded, const CompletionsJob& job);

}  // namespace qad::recipe
