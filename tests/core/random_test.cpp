// The generator against splitmix64's published sequence, and the distributions against counting.
#include "core/random.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

namespace qad {
namespace {

TEST(Random, MixIsSplitmix64s) {
  // The first outputs of splitmix64 seeded with 1234567 (Vigna's reference program).
  const std::uint64_t golden = 0x9E3779B97F4A7C15u;
  EXPECT_EQ(mix64(1234567 + golden), 6457827717110365317u);
  EXPECT_EQ(mix64(1234567 + 2 * golden), 3203168211198807973u);
  EXPECT_EQ(mix64(1234567 + 3 * golden), 9817491932198370423u);
}

TEST(Random, DrawsDependOnSeedAndCounterAlone) {
  Random a{7};
  for (int i = 0; i < 5; ++i) a.bits();
  EXPECT_EQ(a.bits(), random_bits(7, 5));
  std::set<std::uint64_t> seen;
  for (std::uint64_t seed = 0; seed < 100; ++seed)
    for (std::uint64_t counter = 0; counter < 100; ++counter)
      seen.insert(random_bits(seed, counter));
  EXPECT_EQ(seen.size(), 10'000u);
}

TEST(Random, BelowAndUniformAreEven) {
  Random r{1};
  std::array<int, 6> counts{};
  double sum = 0;
  for (int i = 0; i < 60'000; ++i) {
    ++counts.at(r.below(6));
    const double u = r.uniform();
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
  }
  for (const int count : counts) EXPECT_NEAR(count, 10'000, 500);  // 5 standard deviations
  EXPECT_NEAR(sum / 60'000, 0.5, 0.006);
}

}  // namespace
}  // namespace qad
