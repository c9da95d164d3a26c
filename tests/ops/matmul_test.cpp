// Matrix products against sums in double, and what must hold exactly: threads, rows, accumulation.
#include "ops/matmul.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>
#include <vector>

namespace qad::ops {
namespace {

constexpr float kCanary = -12345.0f;

std::vector<float> random(std::int64_t n) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(generator);
  return values;
}

// A matrix of rows by columns whose rows in memory are `pad` elements longer than they need to be.
struct Operand {
  Operand(std::int64_t rows, std::int64_t columns, bool transposed, std::int64_t pad)
      : stride((transposed ? rows : columns) + pad),
        transposed(transposed),
        values(random((transposed ? columns : rows) * stride)) {}
  double at(std::int64_t r, std::int64_t c) const {
    return values[transposed ? c * stride + r : r * stride + c];
  }
  Matrix matrix() const { return {values.data(), stride, transposed}; }

  std::int64_t stride;
  bool transposed;
  std::vector<float> values;
};

struct Size {
  std::int64_t m, n, k;
};

std::vector<Size> sizes() {
  const std::int64_t odd[] = {1, 3, 17, 65, 130};
  std::vector<Size> all;
  for (const std::int64_t m : odd)
    for (const std::int64_t n : odd)
      for (const std::int64_t k : odd) all.push_back({m, n, k});
  // several blocks of each dimension, the last of them incomplete; a sum of nothing
  for (const Size& s : {Size{997, 30, 70}, Size{20, 1051, 70}, Size{50, 64, 1301},
                        Size{499, 600, 300}, Size{5, 7, 0}})
    all.push_back(s);
  return all;
}

enum class Start { zero, bias, accumulate };

void expect_product(const Size& s, bool a_transposed, bool b_transposed, Start start,
                    std::int64_t pad) {
  const Operand a(s.m, s.k, a_transposed, pad), b(s.k, s.n, b_transposed, pad);
  const std::int64_t stride = s.n + pad;
  std::vector<float> c = random(s.m * stride), bias = random(s.n);
  if (start != Start::accumulate) std::fill(c.begin(), c.end(), kCanary);
  const std::vector<float> before = c;
  Addend addend;
  if (start == Start::bias) addend = {bias.data(), 0};
  if (start == Start::accumulate) addend = {c.data(), stride};
  matmul(a.matrix(), b.matrix(), c.data(), stride, s.m, s.n, s.k, addend);
  int wrong = 0;
  for (std::int64_t i = 0; i < s.m; ++i)
    for (std::int64_t j = 0; j < stride; ++j) {
      const float got = c[i * stride + j], old = before[i * stride + j];
      if (j >= s.n) {
        wrong += got != old;  // nothing is written beyond the columns
        continue;
      }
      const double first = start == Start::zero ? 0 : start == Start::bias ? bias[j] : old;
      double sum = first, size = std::abs(first);
      for (std::int64_t k = 0; k < s.k; ++k) {
        sum += a.at(i, k) * b.at(k, j);
        size += std::abs(a.at(i, k) * b.at(k, j));
      }
      // A term passes through at most k + 1 additions, fused or not, each rounding by u = eps / 2
      // of a partial sum that `size` bounds; (1 + u)^(k + 1) - 1 is below (k + 1) eps here.
      const double bound = static_cast<double>(s.k + 1) * FLT_EPSILON * size;
      wrong += !(std::abs(got - sum) <= bound);
    }
  EXPECT_EQ(wrong, 0) << s.m << " x " << s.n << " x " << s.k << ", transposed " << a_transposed
                      << b_transposed << ", start " << static_cast<int>(start) << ", pad " << pad;
}

TEST(Matmul, EqualsSumsInDouble) {
  for (const Size& s : sizes())
    for (const bool a_transposed : {false, true})
      for (const bool b_transposed : {false, true})
        for (const Start start : {Start::zero, Start::bias, Start::accumulate})
          expect_product(s, a_transposed, b_transposed, start, start == Start::zero ? 0 : 5);
}

// Threads, and the rows and columns around an element, change none of its bits.
TEST(Matmul, ElementsDependOnTheirOperandsOnly) {
  const int threads = at::get_num_threads();
  for (const Size& s : {Size{4096, 64, 64}, Size{130, 352, 700}, Size{64, 176, 4096}})
    for (const bool a_transposed : {false, true})
      for (const bool b_transposed : {false, true}) {
        const Operand a(s.m, s.k, a_transposed, 0), b(s.k, s.n, b_transposed, 0);
        std::vector<float> c(s.m * s.n);
        at::set_num_threads(1);
        matmul(a.matrix(), b.matrix(), c.data(), s.n, s.m, s.n, s.k);
        for (const int n : {2, 3, 5}) {
          at::set_num_threads(n);
          std::vector<float> again(c.size());
          matmul(a.matrix(), b.matrix(), again.data(), s.n, s.m, s.n, s.k);
          EXPECT_EQ(c, again) << n << " threads";
        }
        Matrix a_part = a.matrix(), b_part = b.matrix();
        a_part.data += 29 * (a_transposed ? 1 : a.stride);
        b_part.data += 19 * (b_transposed ? b.stride : 1);
        std::vector<float> part(11 * 23);
        matmul(a_part, b_part, part.data(), 23, 11, 23, s.k);
        for (int i = 0; i < 11; ++i)
          for (int j = 0; j < 23; ++j)
            ASSERT_EQ(part[i * 23 + j], c[(29 + i) * s.n + 19 + j]) << i << ", " << j;
      }
  at::set_num_threads(threads);
}

TEST(Matmul, NothingToDo) {
  float c = 3;
  matmul({nullptr, 4}, {nullptr, 4}, &c, 1, 0, 1, 4);
  matmul({nullptr, 4}, {nullptr, 4}, &c, 1, 1, 0, 4);
  EXPECT_EQ(c, 3);
}

}  // namespace
}  // namespace qad::ops
