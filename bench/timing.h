// Seconds on the wall, for the benchmarks that compare rather than count.
#pragma once

#include <chrono>

namespace qad::bench {

template <class F>
double seconds(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace qad::bench
