// Every CUDA operator against the CPU's, over the case tables; what a table cannot say follows.
#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "core/error.h"
#include "cuda/harness.h"
#include "ops/head_loss.h"
#include "ops/ops.h"

namespace qad::cuda::test {
namespace {

using at::Tensor;

void run_all(const std::vector<Case>& cases) {
  int runs = 0;
  for (const Case& c : cases)
    for (const auto& [type, wanted] : {std::pair(at::kFloat, c.fp32), {at::kBFloat16, c.bf16}}) {
      if (!wanted) continue;
      run(c, type);
      ++runs;
    }
  std::printf("             %d runs\n", runs);
}

TEST(Operators, Pointwise) {
  run_all(pointwise_cases());
}
TEST(Operators, FakeQuantize) {
  run_all(format_cases());
}
TEST(Operators, Attention) {
  run_all(attention_cases());
}
TEST(Operators, HeadLoss) {
  run_all(head_cases());
}
TEST(Operators, Optimizer) {
  run_all(optimizer_cases());
}

double worst(const Tensor& actual, const Tensor& expected) {
  const Tensor a = actual.cpu().to(at::kDouble), e = expected.to(at::kDouble);
  if (!a.isfinite().all().item<bool>()) return INFINITY;
  return ((a - e).abs().max() / e.abs().max()).item<double>();
}

// The backward pass gets the forward pass's lse of its own device. In BF16 the output, its gradient
// with the probabilities, and the scores' gradient are each rounded before they are summed.
TEST(Operators, AttentionBackward) {
  struct Shape {
    std::vector<std::int32_t> starts;
    std::int64_t heads, kv_heads, dim;
  };
  for (const Shape& s :
       {Shape{{0, 1}, 1, 1, 8}, Shape{{0, 5, 6, 70}, 4, 2, 64}, Shape{{0, 130, 150}, 14, 2, 64},
        Shape{{0, 40, 103}, 3, 3, 20}, Shape{{0, 64, 200}, 4, 1, 128}, Shape{{0, 50}, 2, 2, 256}}) {
    at::manual_seed(s.dim);
    const at::AutoDispatchBelowADInplaceOrView guard;
    using Forward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, std::int64_t,
                                               std::int64_t, double);
    using Backward = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                            std::int64_t, std::int64_t, double);
    auto& dispatcher = c10::Dispatcher::singleton();
    const auto forward = dispatcher.findSchemaOrThrow("qad::attention", "").typed<Forward>();
    const auto backward =
        dispatcher.findSchemaOrThrow("qad::attention_backward", "").typed<Backward>();
    const std::int64_t tokens = s.starts.back();
    const double scale = 1 / std::sqrt(static_cast<double>(s.dim));
    const Tensor qkv = random({tokens, s.heads + 2 * s.kv_heads, s.dim});
    const Tensor grad = random({tokens, s.heads * s.dim}), starts = at::tensor(s.starts, at::kInt);
    const auto gradient = [&](const Tensor& x, const Tensor& g, const Tensor& at) {
      const Tensor lse = std::get<1>(forward.call(x, at, s.heads, s.kv_heads, scale));
      return backward.call(g, x, lse, at, s.heads, s.kv_heads, scale);
    };
    const Tensor expected = gradient(qkv, grad, starts);
    const Tensor gpu_starts = starts.to(at::kCUDA);
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const Tensor actual = gradient(qkv.to(at::kCUDA, type), grad.to(at::kCUDA, type), gpu_starts);
      const double bound =
          type == at::kFloat ? static_cast<double>(tokens + s.dim + 64) * 0x1p-24 : 4 * 0x1p-8;
      EXPECT_LE(worst(actual, expected), bound)
          << tokens << " tokens, " << s.heads << "/" << s.kv_heads << " heads of " << s.dim
          << " in " << c10::toString(type);
    }
  }
}

TEST(Operators, NanStaysInItsPlace) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    Tensor x = random({2, 32});
    x[1][5] = NAN;
    const Tensor y =
        ops::fake_quantize(x.to(at::kCUDA, type), 0x1p-8, nvfp4::BlockScale::max).cpu();
    EXPECT_EQ(y.isnan().sum().item<std::int64_t>(), 1);
    EXPECT_TRUE(y[1][5].isnan().item<bool>());
  }
}

TEST(Operators, IndicesOutOfRangeMakeNanOfTheirRow) {
  const Tensor table = random({10, 24}).cuda();
  const Tensor y = ops::embedding(table, at::tensor({3, 10, -1}, at::kLong).cuda()).cpu();
  EXPECT_EQ(y.isnan().sum().item<std::int64_t>(), 48);
  EXPECT_FALSE(y[0].isnan().any().item<bool>());
  const Tensor angle = at::rand({5, 8}).cuda();
  const Tensor z =
      ops::rope(random({2, 3, 16}).cuda(), angle, angle, at::tensor({4, 5}, at::kLong).cuda(), 2)
          .cpu();
  EXPECT_EQ(z.isnan().sum().item<std::int64_t>(), 32);
  const auto out = ops::head_loss(
      {random({3, 8}).cuda(), random({20, 8}).cuda(), random({3, 8}).cuda(), random({20, 8}).cuda(),
       at::tensor({1, 20, -1}, at::kLong).cuda(), at::ones({3}).cuda()},
      {}, 3);
  EXPECT_TRUE(at::equal(out.ce.isnan().to(at::kInt).cpu(), at::tensor({0, 1, 1}, at::kInt)));
}

TEST(Operators, ErrorsNameTheOperatorAndWhatWasFound) {
  const auto message = [](auto&& call) -> std::string {
    try {
      call();
    } catch (const std::exception& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(message([] {
              ops::swiglu(at::zeros({2, 4}, at::kHalf).cuda());
            }),
            "[swiglu] gate_up: expected float32 or bfloat16 on a GPU, found Half [2, 4] on cuda:0");
  EXPECT_NE(message([] {
              ops::fake_quantize(at::zeros({2, 4}).cuda(), 0, nvfp4::BlockScale::max);
            }).find("was the tensor calibrated?"),
            std::string::npos);
}

}  // namespace
}  // namespace qad::cuda::test
