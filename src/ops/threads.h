// Work for several threads, for pieces of a few microseconds, of which a decoded token has
// hundreds.
//
// A thread that is not there when work comes is not waited for: whoever is takes its pieces. In
// OpenMP a loop ends when every thread has arrived, so that on a machine with other work a token
// could wait for the scheduler a hundred times.
#pragma once

#include <cstdint>

namespace qad::ops {

// A function for the time of a call.
class PieceFunction {
 public:
  template <class F>
  PieceFunction(const F& f)  // NOLINT: as std::function converts
      : object_(&f), call_([](const void* object, std::int64_t piece) {
          (*static_cast<const F*>(object))(piece);
        }) {}
  void operator()(std::int64_t piece) const { call_(object_, piece); }

 private:
  const void* object_;
  void (*call_)(const void*, std::int64_t);
};

// Calls f(piece) for each of [0, pieces), on at most at::get_num_threads() threads, and returns
// when all are done. Which thread takes which piece varies, what a piece is must not depend on it.
// Within a piece, and while another thread has the pool, the caller does all of it. What a piece
// throws, the first of them, is thrown here.
void for_pieces(std::int64_t pieces, PieceFunction f);

// How many threads a range of n is cut for, none of which gets less than `grain` of it.
std::int64_t threads_for(std::int64_t n, std::int64_t grain);

// As at::parallel_for: f(begin, end) over equal pieces of [begin, end), one a thread; the last may
// be smaller.
template <class F>
void parallel_for(std::int64_t begin, std::int64_t end, std::int64_t grain, const F& f) {
  if (begin >= end) return;
  const std::int64_t threads = threads_for(end - begin, grain);
  const std::int64_t size = (end - begin + threads - 1) / threads;
  const auto piece = [&](std::int64_t i) {
    const std::int64_t first = begin + i * size;
    f(first, end - first < size ? end : first + size);
  };
  for_pieces((end - begin + size - 1) / size, piece);
}

}  // namespace qad::ops
