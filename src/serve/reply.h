// Answers as JSON, in the shapes of OpenAI's API: whole, or as server-sent events.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "serve/call.h"
#include "serve/channel.h"
#include "text/tokenizer.h"

namespace qad::serve {

struct Usage {
  std::int64_t prompt_tokens = 0, cached_tokens = 0;  // of each prompt once, whatever its samples
  std::int64_t new_tokens = 0;
};

class Reply {
 public:
  // `tokenizer` must outlive it. `prompt_tokens`: of all prompts; a call has `samples` choices of
  // each.
  Reply(const text::Tokenizer& tokenizer, const Call& call, std::size_t choices,
        std::int64_t prompt_tokens);

  // Either a stream: pieces that came together as server-sent events, "" where they say nothing;
  // after the last of all, usage if it was asked for, and [DONE].
  std::string events(const std::vector<Piece>& pieces);
  std::string last_events() const;
  // Or all of it at the end.
  void add(const std::vector<Piece>& pieces);
  std::string whole() const;

  const std::string& id() const { return id_; }
  std::string summary() const;  // ", 12 + 34 tokens (8 cached), stop", for the log

 private:
  struct Choice {
    std::string text;
    std::vector<LoggedToken> logged;
    bool begun = false;
    const char* finish = nullptr;
  };
  void count(const Piece& piece);
  Json frame(const char* chat, const char* completions) const;
  Json logprobs(const std::vector<LoggedToken>& tokens) const;
  Json chunk(std::size_t index, Json part) const;
  std::string token_text(text::TokenId id) const;

  const text::Tokenizer& tokenizer_;
  Endpoint endpoint_;
  bool log_;            // log-probabilities are wanted
  bool include_usage_;  // in a stream
  std::int64_t samples_, created_;
  std::string model_, id_;
  std::vector<Choice> choices_;
  Usage usage_;
};

std::string sse(const Json& json);      // "data: ...\n\n"
std::string to_line(const Json& json);  // compact; bytes that are no UTF-8 become U+FFFD

}  // namespace qad::serve
