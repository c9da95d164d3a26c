// Loops over pieces: each piece once, whoever throws, whoever calls.
#include "ops/threads.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace qad::ops {
namespace {

class Threads : public ::testing::Test {
 protected:
  ~Threads() override { at::set_num_threads(before_); }
  int before_ = at::get_num_threads();
};

TEST_F(Threads, DoEachPieceOnce) {
  for (const int threads : {1, 2, 5}) {
    at::set_num_threads(threads);
    for (int round = 0; round < 2000; ++round) {
      std::vector<int> done(static_cast<std::size_t>(round % 17));
      for_pieces(round % 17, [&](std::int64_t i) { ++done[static_cast<std::size_t>(i)]; });
      for (const int n : done) ASSERT_EQ(n, 1) << round;
    }
  }
}

TEST_F(Threads, CutARangeWithoutGaps) {
  at::set_num_threads(4);
  for (const std::int64_t n : {0, 1, 3, 4, 5, 1000})
    for (const std::int64_t grain : {0, 1, 2, 300}) {
      std::vector<int> done(static_cast<std::size_t>(n));
      std::atomic<std::int64_t> least = n;
      parallel_for(0, n, grain, [&](std::int64_t begin, std::int64_t end) {
        if (end < n) least = std::min(least.load(), end - begin);
        for (; begin < end; ++begin) ++done[static_cast<std::size_t>(begin)];
      });
      EXPECT_EQ(done, std::vector<int>(done.size(), 1));
      EXPECT_GE(least, std::min(n, grain));
    }
}

TEST_F(Threads, ThrowWhatAPieceThrowsAndGoOn) {
  at::set_num_threads(3);
  for (int round = 0; round < 100; ++round) {
    std::atomic<int> done = 0;
    EXPECT_THROW(for_pieces(8,
                            [&](std::int64_t i) {
                              if (i == round % 8) throw std::runtime_error("piece");
                              ++done;
                            }),
                 std::runtime_error);
    EXPECT_EQ(done, 7);
  }
}

TEST_F(Threads, ServeSeveralCallersAndLoopsInLoops) {
  at::set_num_threads(3);
  std::atomic<int> done = 0;
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round)
        for_pieces(5, [&](std::int64_t) { for_pieces(3, [&](std::int64_t) { ++done; }); });
    });
  for (std::thread& t : callers) t.join();
  EXPECT_EQ(done, 4 * 200 * 5 * 3);
}

}  // namespace
}  // namespace qad::ops
