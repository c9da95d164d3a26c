// What a source of a synthesis offers, one numbered candidate after another: a prompt that the
// teacher completes, perhaps in two texts (its own prompt, then the answer), or tokens as they are.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "generate/write_texts.h"
#include "recipe/synthesis.h"

namespace qad::recipe {

struct Candidate {
  std::vector<text::TokenId> prompt_ids;  // of the text that is due
  std::uint64_t stage = 0;                // how many texts it has already
  bool complete = false;                  // `record` is what is kept
  bool rejected = false;                  // or nothing is
  std::int64_t problem = 0;               // of a task
  Json record;  // prompt, completion, input_ids, prompt_tokens, finish_reason, ...
};

class Candidates {
 public:
  virtual ~Candidates() = default;
  // The candidate of this number, nothing behind the last. The same number is the same candidate.
  virtual std::optional<Candidate> next(std::int64_t index) = 0;
  // Takes the text that was due.
  virtual void note(Candidate& candidate, generate::WrittenText text) = 0;
};

// Of source `number` of `synthesis`. Throws Error for files, tasks and tokens that are missing.
// `synthesis` and `teacher` must outlive it.
std::unique_ptr<Candidates> make_candidates(const Synthesis& synthesis, std::size_t number,
                                            const LoadedModel& teacher);

}  // namespace qad::recipe
