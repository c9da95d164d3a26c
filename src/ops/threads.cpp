// A piece is claimed by a number that says of which loop it is, so that a thread that comes late
// finds nothing to claim. Each thread begins with pieces of its own, which are likely in its cache,
// and goes on with what is left. Idle threads look for work for some time before they sleep.
#include "ops/threads.h"

#include <ATen/Parallel.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

namespace qad::ops {
namespace {

constexpr std::int64_t kMostPieces = 1024;
constexpr auto kAwake = std::chrono::microseconds(500);  // between the work of two tokens
constexpr int kLooks = 200;  // of some nanoseconds, before the processor is offered to others

thread_local bool in_piece = false;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

class Pool {
 public:
  bool run(std::int64_t pieces, std::int64_t threads, const PieceFunction& f) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return false;
    for (; workers_ < threads - 1; ++workers_)
      std::thread([this, number = workers_ + 1] { work(number); }).detach();
    const std::uint64_t loop = loop_.load(std::memory_order_relaxed) + 1;
    function_.store(&f, std::memory_order_relaxed);
    pieces_.store(pieces, std::memory_order_relaxed);
    threads_.store(threads, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    error_ = nullptr;
    for (std::int64_t i = 0; i < pieces; ++i) claims_[i].store(2 * loop, std::memory_order_relaxed);
    loop_.store(loop);  // publishes what is above
    if (asleep_.load() > 0) loop_.notify_all();
    take(loop, 0);
    for (int looks = 0; done_.load(std::memory_order_acquire) < pieces;)
      if (++looks < kLooks)
        relax();
      else
        sched_yield();  // to a thread that has a piece and no processor
    if (error_) std::rethrow_exception(error_);
    return true;
  }

 private:
  // Claims and does pieces of the loop until none is left.
  void take(std::uint64_t loop, std::int64_t thread) {
    const std::int64_t pieces = pieces_.load(std::memory_order_relaxed);
    const std::int64_t threads = threads_.load(std::memory_order_relaxed);
    const PieceFunction* const f = function_.load(std::memory_order_relaxed);
    if (thread >= threads) return;
    const std::int64_t first = pieces * thread / threads;
    in_piece = true;
    for (std::int64_t n = 0; n < pieces; ++n) {
      const std::int64_t i = first + n < pieces ? first + n : first + n - pieces;
      // Fails if the piece is taken, or the loop over: what was read above is then of no use.
      std::uint64_t free = 2 * loop;
      if (!claims_[i].compare_exchange_strong(free, free + 1, std::memory_order_acquire,
                                              std::memory_order_relaxed))
        continue;
      try {
        (*f)(i);
      } catch (...) {
        const std::lock_guard guard(error_mutex_);
        if (!error_) error_ = std::current_exception();
      }
      done_.fetch_add(1, std::memory_order_release);
    }
    in_piece = false;
  }

  void work(std::int64_t thread) {
    std::uint64_t seen = 0;
    for (;;) {
      const auto until = std::chrono::steady_clock::now() + kAwake;
      std::uint64_t loop = seen;
      for (int looks = 0; (loop = loop_.load(std::memory_order_acquire)) == seen; ++looks) {
        relax();
        if (looks < kLooks) continue;
        if (std::chrono::steady_clock::now() > until) break;
        sched_yield();
      }
      if (loop == seen) {
        asleep_.fetch_add(1);
        loop_.wait(seen);
        asleep_.fetch_sub(1);
        continue;
      }
      take(loop, thread);
      seen = loop;
    }
  }

  std::mutex mutex_;  // one loop at a time
  std::int64_t workers_ = 0;
  alignas(64) std::atomic<std::uint64_t> loop_ = 0;
  std::atomic<std::int64_t> asleep_ = 0;
  std::atomic<const PieceFunction*> function_ = nullptr;
  std::atomic<std::int64_t> pieces_ = 0, threads_ = 0;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  alignas(64) std::atomic<std::int64_t> done_ = 0;
  alignas(64) std::array<std::atomic<std::uint64_t>, kMostPieces> claims_{};
};

}  // namespace

std::int64_t threads_for(std::int64_t n, std::int64_t grain) {
  const std::int64_t most = std::max<std::int64_t>(1, n / std::max<std::int64_t>(1, grain));
  return in_piece ? 1 : std::min<std::int64_t>(at::get_num_threads(), most);
}

void for_pieces(std::int64_t pieces, PieceFunction f) {
  // Never destroyed: its threads live as long as the process.
  static Pool& pool = *new Pool;
  const std::int64_t threads = std::min<std::int64_t>(pieces, at::get_num_threads());
  if (threads > 1 && !in_piece && pieces <= kMostPieces && pool.run(pieces, threads, f)) return;
  for (std::int64_t i = 0; i < pieces; ++i) f(i);
}

}  // namespace qad::ops
