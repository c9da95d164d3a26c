// Random numbers that depend on a seed and a counter alone (splitmix64's mixing over both), so that
// the k-th draw can be had without the draws before it: shuffles, sampling and resumed runs need
// nothing stored but a count. Not for secrets.
#pragma once

#include <cstdint>

namespace qad {

// The output function of splitmix64 (Steele, Lea and Flood 2014; Vigna's constants).
constexpr std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// 64 uniform bits. Mixing the seed first keeps the streams of neighbouring seeds apart.
constexpr std::uint64_t random_bits(std::uint64_t seed, std::uint64_t counter) {
  return mix64(mix64(seed + 0x9E3779B97F4A7C15u) + (counter + 1) * 0x9E3779B97F4A7C15u);
}

// A stream of them: `counter` is all its state.
struct Random {
  std::uint64_t seed = 0, counter = 0;

  constexpr std::uint64_t bits() { return random_bits(seed, counter++); }
  // In [0, 1), a multiple of 2^-53.
  constexpr double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  // In [0, n), n > 0; the bias of the multiplication is below n / 2^64.
  constexpr std::uint64_t below(std::uint64_t n) {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(bits()) * n) >> 64);
  }
};

}  // namespace qad
