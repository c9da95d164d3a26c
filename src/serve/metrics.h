// What the server counts, in Prometheus' text format (version 0.0.4).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "generate/engine.h"

namespace qad::serve {

// Why a text was ended before its time.
enum class Cancelled { disconnected, slow };

class Metrics {
 public:
  void answered(std::string_view path, int status, double seconds);
  void first_token(double seconds);  // of a text, since it was asked for
  void cancelled(Cancelled why);
  // After each pass.
  struct Load {
    generate::Engine::Counts counts;
    std::int64_t running = 0, waiting = 0;  // texts
    double cache_held = 0;                  // share of the cache
  };
  void set(const Load& load);

  std::string text(std::int64_t clients) const;

 private:
  struct Histogram {
    // Upper bounds in seconds; the last bucket is all.
    static constexpr std::array<double, 14> kBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                       0.25,  0.5,    1,     2.5,  5,     10,   60};
    std::array<std::int64_t, kBounds.size() + 1> counts{};  // of each bucket alone
    double sum = 0;
    void add(double seconds);
    std::string text(std::string_view name, std::string_view help) const;
  };

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, std::int64_t> answers_;
  std::array<std::int64_t, 2> cancelled_{};
  Histogram first_token_, seconds_;
  Load load_;
};

}  // namespace qad::serve
