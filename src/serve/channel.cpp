// A vector under a lock: the one who answers takes all that there is.
#include "serve/channel.h"

#include <utility>

namespace qad::serve {

bool Channel::put(Piece piece) {
  const std::lock_guard lock(mutex_);
  if (closed_ || error_) return false;
  pending_ += piece.tokens;
  if (pending_ > most_pending_) {
    closed_ = true;
    pieces_.clear();
  } else {
    if (piece.finish) --open_;
    pieces_.push_back(std::move(piece));
  }
  changed_.notify_one();
  return !closed_;
}

void Channel::fail(const ApiError& error) {
  const std::lock_guard lock(mutex_);
  if (open_ == 0 || error_) return;
  error_ = error;
  changed_.notify_one();
}

std::vector<Piece> Channel::take(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, patience, [&] { return !pieces_.empty() || error_ || closed_; });
  pending_ = 0;
  if (pieces_.empty() && error_) throw *error_;
  return std::exchange(pieces_, {});
}

bool Channel::over() const {
  const std::lock_guard lock(mutex_);
  return open_ == 0 && pieces_.empty();
}

void Channel::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
}

bool Channel::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

}  // namespace qad::serve
