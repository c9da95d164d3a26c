// Attention against the plain formula in double, and what must hold exactly: packing, threads.
#include "core/error.h"
#include "ops/ops.h"
#include "reference.h"

namespace qad::ops {
namespace {

using reference::double_leaf;
using reference::expect_near;
using reference::leaf;
using reference::random;
using Tensor = at::Tensor;

struct Case {
  std::int64_t heads, kv_heads, dim;
  std::vector<std::int32_t> lengths;
};
const Case kCases[] = {
    {1, 1, 8, {1}},                              // softmax of one score
    {8, 4, 8, {256}},                            // stories260K
    {8, 4, 8, {1, 7, 8, 9, 31, 32, 33, 64, 1}},  // around blocks of queries and of keys
    {9, 3, 64, {70, 2}},                         // SmolLM2
    {4, 1, 16, {17, 5}},
    {2, 2, 4, {20}},
    {3, 3, 2, {13}},
    {6, 2, 5, {11, 40}},
    {2, 1, 24, {45}},
    {2, 1, 40, {19}},
    {1, 1, 96, {50}},
    {2, 1, 128, {33}},
    {1, 1, 256, {21}},
    {2, 1, 80, {35}},
    {1, 1, 1, {9}},
    {2, 2, 12, {0, 5, 0, 3}},
};

std::vector<std::int32_t> starts(const std::vector<std::int32_t>& lengths) {
  std::vector<std::int32_t> at{0};
  for (const std::int32_t n : lengths) at.push_back(at.back() + n);
  return at;
}

TEST(Attention, OutputsAndGradients) {
  for (const Case& c : kCases)
    for (const double size : {1.0, 6.0}) {  // flat and peaked distributions
      const auto at = starts(c.lengths);
      const std::string what = fmt::format("{} of {} heads of {}, {} tokens, size {}", c.kv_heads,
                                           c.heads, c.dim, at.back(), size);
      const double scale = 1 / std::sqrt(static_cast<double>(c.dim));
      const Tensor x = leaf(random({at.back(), c.heads + 2 * c.kv_heads, c.dim}, size));
      const Tensor xd = double_leaf(x), g = random({at.back(), c.heads * c.dim});
      const Tensor y =
          ops::attention(x, at::tensor(at, at::kInt), at.back(), c.heads, c.kv_heads, scale);
      const Tensor yd = reference::attention(xd, at, c.heads, c.kv_heads, scale);
      // A score of magnitude size^2 sqrt(dim) carries that many roundings into the exponent, and
      // the gradient multiplies it by such a score again.
      const double score = 1 + size * size * std::sqrt(static_cast<double>(c.dim));
      expect_near(y, yd, 16 + 4 * score, what + " out");
      y.backward(g);
      yd.backward(g.to(at::kDouble));
      expect_near(x.grad(), xd.grad(), 32 + 16 * score, what + " gradient");
    }
}

TEST(Attention, GradientIsTheSlopeOfTheOutput) {
  const std::vector<std::int32_t> at{0, 5, 12};
  const Tensor x = random({12, 4, 6}), direction = random({12, 4, 6}).to(at::kDouble);
  const Tensor g = random({12, 12});
  const auto value = [&](double step) {
    const Tensor moved = x.to(at::kDouble) + direction * step;
    return (reference::attention(moved, at, 2, 1, 0.4) * g).sum().item<double>();
  };
  const Tensor a = leaf(x);
  ops::attention(a, at::tensor(at, at::kInt), 7, 2, 1, 0.4).backward(g);
  // central differences of 1e-4: 1e-8 of curvature, against FP32's 1e-6 of a sum of 288 products
  EXPECT_NEAR((a.grad().to(at::kDouble) * direction).sum().item<double>(),
              (value(1e-4) - value(-1e-4)) / 2e-4, 3e-5);
}

TEST(Attention, PackedEqualsSeparateAndThreadsChangeNoBit) {
  const std::vector<std::int32_t> lengths{40, 1, 77, 8, 130}, at = starts(lengths);
  for (const std::int64_t dim : {8, 64}) {
    const Tensor x = random({at.back(), 12, dim}), g = random({at.back(), 6 * dim});
    const auto run = [&](const Tensor& part, const std::vector<std::int32_t>& places,
                         const Tensor& grad) {
      const Tensor a = leaf(part);
      const Tensor y = ops::attention(a, at::tensor(places, at::kInt), 130, 6, 3, 0.3);
      y.backward(grad);
      return std::pair(y.detach(), a.grad());
    };
    const int threads = at::get_num_threads();
    at::set_num_threads(1);
    const auto alone = run(x, at, g);
    at::set_num_threads(2);
    const auto packed = run(x, at, g);
    at::set_num_threads(threads);
    reference::expect_same(alone.first, packed.first, "threads");
    reference::expect_same(alone.second, packed.second, "threads, gradient");
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      const auto [y, dx] =
          run(x.narrow(0, at[i], lengths[i]), {0, lengths[i]}, g.narrow(0, at[i], lengths[i]));
      reference::expect_same(y, packed.first.narrow(0, at[i], lengths[i]), "packed");
      reference::expect_same(dx, packed.second.narrow(0, at[i], lengths[i]), "packed, gradient");
    }
  }
}

TEST(Attention, NeverLooksAhead) {
  Tensor x = random({50, 3, 8});
  const Tensor at = at::tensor({0, 50}, at::kInt), before = ops::attention(x, at, 50, 1, 1, 1);
  x.narrow(0, 30, 20).fill_(1e4);
  reference::expect_same(ops::attention(x, at, 50, 1, 1, 1).narrow(0, 0, 30),
                         before.narrow(0, 0, 30), "earlier tokens");
}

TEST(Attention, RefusesWrongShapes) {
  const Tensor x = random({6, 4, 8});
  const auto at = [](std::vector<int> v) { return at::tensor(v, at::kInt); };
  EXPECT_THROW(ops::attention(x, at({0, 5}), 6, 2, 1, 1), Error);
  EXPECT_THROW(ops::attention(x, at({1, 6}), 6, 2, 1, 1), Error);
  EXPECT_THROW(ops::attention(x, at({0, 4, 3, 6}), 6, 2, 1, 1), Error);
  EXPECT_THROW(ops::attention(x, at({0, 6}), 6, 3, 1, 1), Error);
  EXPECT_THROW(ops::attention(x, at({0, 6}), 6, 1, 2, 1), Error);
  EXPECT_THROW(ops::attention(x, at({0, 2, 6}), 3, 2, 1, 1), Error);  // 4 tokens, not 3
  EXPECT_THROW(ops::attention(x, at({0, 6}).to(at::kLong), 6, 2, 1, 1), Error);
}

}  // namespace
}  // namespace qad::ops
