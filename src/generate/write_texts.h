// Many texts through an engine, with their stop strings, until all are written: what completions,
// benchmarks and a teacher's data have in common.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "generate/engine.h"
#include "text/tokenizer.h"

namespace qad::generate {

struct TextJob {
  std::vector<text::TokenId> prompt;
  SamplingOptions sampling;  // with stop strings
};
struct WrittenText {
  std::string text;                       // up to a stop string
  std::vector<text::TokenId> ids;         // all new tokens, without one that ended them,
  std::optional<text::TokenId> ended_by;  // which is this
  Finish finish = Finish::stop;           // cancelled never comes: a stop string is a stop
};

// "stop" or "length".
const char* finish_reason(Finish finish);

struct TextWriter {
  // The next text, nothing if there is none for now. It is asked before each pass while few texts
  // wait: prompts may be many, and the end of one text may give the prompt of another.
  std::function<std::optional<TextJob>()> next;
  // Called with the number (from 0, in the order of `next`) of each text, in the order in which
  // they end.
  std::function<void(std::int64_t number, WrittenText text)> done;
  // After each pass; false: enough. What is unfinished is cancelled, and not told.
  std::function<bool()> go_on;
};

// Returns when nothing is to be done or go_on said so. Throws what Engine::add and step throw.
void write_texts(Engine& engine, const text::Tokenizer& tokenizer, const TextWriter& writer);

}  // namespace qad::generate
