// Data from the teacher, the report's data ablation (arXiv 2601.20088, 4.1): completions of SFT
// prompts, of RL prompts (all or only the correct ones), free generation from BOS, random tokens,
// prompts that the model makes itself, and mixtures of those.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "core/json.h"
#include "generate/engine.h"
#include "recipe/steps.h"

namespace qad::recipe {

struct SynthesisSource {
  static constexpr const char* required = "kind";
  std::string kind = {}, file = {}, task = {}, keep = "all";
  double weight = 1;
  std::int64_t passes = 1;
};
template <class S, class F>
requires std::is_same_v<std::remove_const_t<S>, SynthesisSource>
void for_each_key(S& s, F&& f) {
  f("kind", s.kind, "prompts|task|self|bos|random", "");
  f("file", s.file, "", "of prompts: .txt, or .jsonl with prompt or messages");
  f("task", s.task, "", "of task: a name or .yaml; its prompts, and its answers for keep: correct");
  f("keep", s.keep, "all|correct", "of task: every completion, or those that score full points");
  f("weight", s.weight, ">0", "its share of the tokens");
  f("passes", s.passes, ">0", "of prompts and task: each prompt is completed at most so often");
}

struct Synthesis {
  std::string teacher, output = "out/teacher-data", device = "cpu";
  std::int64_t threads = 0, seed = 0, tokens = 1'000'000, shard_records = 10'000;
  std::vector<SynthesisSource> sources;
  struct {
    double temperature = 1, top_p = 1, min_p = 0;
    std::int64_t top_k = 0, max_tokens = 1024;
  } sampling;
};
template <class S, class F>
requires std::is_same_v<std::remove_const_t<S>, Synthesis>
void for_each_key(S& s, F&& f) {
  f("teacher", s.teacher, "", "model that writes: an HF folder, a .gguf or a llama2.c .bin");
  f("output", s.output, "", "folder for data-00000.jsonl, ... and about.json");
  f("device", s.device, "cpu|cuda", "where to compute");
  f("threads", s.threads, "", "CPU threads; 0: one a core");
  f("seed", s.seed, "", "of the order of prompts and of samples");
  f("tokens", s.tokens, ">0", "of prompts and completions, all sources together");
  f("shard_records", s.shard_records, ">0", "records a file");
  f("sources", s.sources, "",
    "[{kind: prompts, file}, {kind: task, task, keep: all|correct}, self, bos, random], each with "
    "weight (its share of the tokens) and passes (completions a prompt)");
  f("sampling.temperature", s.sampling.temperature, "", "0: greedy");
  f("sampling.top_p", s.sampling.top_p, ">0", "");
  f("sampling.min_p", s.sampling.min_p, "", "");
  f("sampling.top_k", s.sampling.top_k, "", "0: all");
  f("sampling.max_tokens", s.sampling.max_tokens, ">0", "of a completion");
}

// Throw Error "[synthesize] FILE:LINE: ...".
Synthesis load_synthesis(const fs::path& file);
void set_synthesis_key(Synthesis& synthesis, const std::string& assignment);  // "key=value"
void validate(const Synthesis& synthesis);
std::string to_yaml(const Synthesis& synthesis);
Json to_json(const Synthesis& synthesis);

struct SynthesisSummary {
  struct Source {
    std::string kind, from;  // from: its file or task
    std::int64_t records = 0, tokens = 0, completion_tokens = 0;
    std::int64_t candidates = 0;  // completions made; those that were wrong are not kept
    std::int64_t ended = 0;       // by the model, not by max_tokens
  };
  std::vector<Source> sources;
  std::vector<std::pair<std::string, std::string>> examples;  // prompt, completion
  double seconds = 0;
  bool interrupted = false;
  std::int64_t tokens() const;
};
std::string summary_table(const SynthesisSummary& summary);  // for the terminal
Json to_json(const SynthesisSummary& summary);
SynthesisSummary summary_of(const Json& json);

// Writes JSON lines into `synthesis.output` until each source has its share of the tokens:
//   {"source": its number, "index": of its candidates, "prompt", "completion", "input_ids": prompt
//    and completion with the token that ended it, "prompt_tokens", "finish_reason": "stop" |
//    "length", "sampling": {...}, "teacher": fingerprint [, "reference", "correct"]}
// and about.json at the end. `data.train` takes the folder. The same recipe gives the same bytes
// whatever the batch; after a kill it goes on without a lost or doubled record. Error for a folder
// that another recipe or teacher began.
SynthesisSummary synthesize(const LoadedModel& teacher, const Synthesis& synthesis,
                            const generate::EngineOptions& engine);

}  // namespace qad::recipe
