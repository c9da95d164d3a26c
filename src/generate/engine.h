// Many texts at once: continuous batching over a paged key-value cache (vLLM: Kwon et al. 2023;
// Orca: Yu et al. 2022). Every pass takes a token of each text that is being written and pieces of
// prompts that are being read; texts come and go between passes.
//
// A text depends on its own request alone: its draws are numbered by its seed and its own tokens.
// (On a CPU products round a row alike whatever rows are beside it.)
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "generate/generate.h"
#include "generate/next_tokens.h"
#include "generate/pages.h"
#include "models/model.h"

namespace qad::generate {

enum class Finish { stop, length, cancelled };  // an eos or stop token or the caller; max_tokens

struct Request {
  std::vector<text::TokenId> prompt;
  SamplingOptions sampling;  // without stop strings, which StreamedText finds
  // With each new token (eos and stop tokens are not given out); false: enough.
  std::function<bool(text::TokenId)> each;
  // Once, when the text has ended, with all its new tokens.
  std::function<void(Finish, const std::vector<text::TokenId>&)> done;
  // Before `done`, with the eos or stop token that ended the text, if one did.
  std::function<void(text::TokenId)> ended_by = {};
  // Once, when its prompt begins to be read, with how many of its tokens the cache has already.
  std::function<void(std::int64_t)> started = {};
  // log_probs() with the `likeliest` likeliest, computed where they are asked for: of each new
  // token, before `each` has it;
  std::function<void(const LogProbs&)> log_probs = {};
  // and of the prompt's tokens from the second on, before any new one. Such a prompt is read whole,
  // also for a text of no tokens.
  std::function<void(const LogProbs&)> prompt_log_probs = {};
  std::int64_t likeliest = 0;
};

struct EngineOptions {
  // 0: what suits the device, on a CPU and a GPU 64 and 256 sequences, 512 and 8192 tokens.
  std::int64_t most_sequences = 0;  // written at once
  std::int64_t most_tokens = 0;     // of a pass: prompts are read in pieces of no more
  std::int64_t page_tokens = 16;
  double cache_bytes = 256 << 20;  // for keys and values, and states, which get half at most
  // Of prompts and texts that were read or written before. Not of models with states: a state is of
  // one moment of a text, and pages keep no such moments.
  bool reuse_prefixes = true;
  bool cuda_graphs = true;  // on a GPU: passes that only write are recorded
};

class Engine {
 public:
  // `model` must outlive it.
  Engine(const models::Model& model, const EngineOptions& options);

  // Queues a request and returns its number. `each` and `done` may add others.
  std::int64_t add(Request request);
  // What add demands. Throws Error for a prompt that is empty, has tokens that the model lacks or,
  // with max_tokens, needs more pages than there are, and for options that are not valid.
  void check_request(const std::vector<text::TokenId>& prompt,
                     const SamplingOptions& sampling) const;
  // Ends it at the next pass, as the caller of `each` could.
  void cancel(std::int64_t number);
  // Whether it waits or is being written: an end has not been told, nor was it forgotten.
  bool has(std::int64_t number) const;
  // One pass; false when there is nothing to do. An Error (logits that are not finite) forgets the
  // texts of the pass, without a word to them.
  bool step();

  struct Counts {
    std::int64_t prompt_tokens = 0, reused_tokens = 0;  // of prompts; those found in the cache
    std::int64_t new_tokens = 0, passes = 0;
    std::int64_t preemptions = 0;  // texts whose pages others took; they are read again
  };
  const Counts& counts() const { return counts_; }
  std::int64_t running() const { return static_cast<std::int64_t>(running_.size()); }
  std::int64_t waiting() const { return static_cast<std::int64_t>(waiting_.size()); }
  // Tokens that the cache can hold: what a prompt with its text may have at most.
  std::int64_t room() const { return pages_.count() * options_.page_tokens; }
  // The share of the cache's pages that texts hold.
  double held() const {
    return 1 - static_cast<double>(pages_.free()) / static_cast<double>(pages_.count());
  }

 private:
  struct Sequence {
    std::int64_t number = 0;
    Request request;
    std::vector<text::TokenId> tokens;  // prompt and text
    std::int64_t cached = 0;            // of `tokens`, in the pages
    std::int32_t slot = -1;             // of its states, while it is running
    std::vector<Pages::Page> pages;
    std::vector<Pages::Content> contents;  // of its full pages
    bool cancelled = false, started = false;
    std::size_t told = 1;  // of the prompt's tokens, their log-probabilities; the first has none
    std::int64_t made() const {
      return static_cast<std::int64_t>(tokens.size() - request.prompt.size());
    }
    bool complete() const {  // nothing is left to be read or written
      return made() >= request.sampling.max_tokens &&
             !(request.prompt_log_probs && told < request.prompt.size());
    }
    std::int64_t left() const { return static_cast<std::int64_t>(tokens.size()) - cached; }
  };
  struct Share {  // of a pass
    Sequence* sequence;
    std::int64_t tokens;
  };
  std::vector<Share> plan();
  bool make_room(Sequence& s, std::int64_t tokens, std::size_t index);
  void find_prefix(Sequence& s);
  void preempt_last();
  void release(Sequence& s);
  void run(const std::vector<Share>& shares);
  // The logits of those that have read all they have, in their order.
  NextLogits read(const std::vector<Share>& shares);
  NextLogits write_on(const std::vector<Share>& shares);
  bool only_writes(const std::vector<Share>& shares) const;
  void note_full_pages(Sequence& s);
  // Tells the log-probabilities of the prompt's tokens behind those of a pass. `hidden`: its rows.
  void tell_prompt(Sequence& s, const at::Tensor& hidden);
  // Appends a sampled token; whether the text has ended so.
  std::optional<Finish> append(Sequence& s, text::TokenId id, std::span<const float> logits);
  void end(std::unique_ptr<Sequence> s, Finish finish);
  bool is_running(const Sequence* s) const;
  std::unique_ptr<Sequence> take_out(const Sequence* s);  // of running_

  const models::Model& model_;
  EngineOptions options_;
  std::vector<std::int32_t> free_slots_;  // as many texts are written at once
  bool has_states_;
  Pages pages_;
  models::PagedCache cache_;  // with a page more, which nobody holds
  std::optional<RecordedPasses> recorded_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in the order of their admission
  Counts counts_;
  std::int64_t next_ = 0;
};

}  // namespace qad::generate
