// The way of one call's texts from the thread that decodes to the one that answers. It is bounded:
// a client that does not read what is written for it loses its place.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "generate/engine.h"
#include "serve/api_error.h"

namespace qad::serve {

// A token with its log-probabilities (none for the first of a prompt) and where its text begins,
// in characters from the beginning of the choice.
struct LoggedToken {
  text::TokenId id = 0;
  std::int64_t offset = 0;
  std::optional<generate::LogProbs> log_probs;
};

struct Piece {
  std::size_t choice = 0;
  std::string text;
  std::int64_t tokens = 0;          // new ones
  std::vector<LoggedToken> logged;  // where they are asked for
  std::int64_t reused = 0;          // of its prompt's tokens, in the cache; with the first piece
  std::optional<generate::Finish> finish;  // the last piece of its choice
};

class Channel {
 public:
  // Of `choices` texts; at most `most_pending` tokens wait to be taken.
  Channel(std::size_t choices, std::int64_t most_pending)
      : open_(choices), most_pending_(most_pending) {}

  // For the thread that decodes. False: nobody wants it any more.
  bool put(Piece piece);
  void fail(const ApiError& error);  // ends all texts that have not ended

  // For the thread that answers. What there is, in its order; waits for it up to `patience`.
  // Throws the ApiError of fail() once all before it is taken.
  std::vector<Piece> take(std::chrono::milliseconds patience);
  bool over() const;    // all texts have ended and are taken
  void close();         // no more is wanted
  bool closed() const;  // by close(), or because too much waited

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Piece> pieces_;
  std::optional<ApiError> error_;
  std::size_t open_;  // texts that have not ended
  std::int64_t pending_ = 0, most_pending_;
  bool closed_ = false;
};

}  // namespace qad::serve
