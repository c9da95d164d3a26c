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

// A small decoder layer with its head through the C++ faces, so that autograd joins the operators
// as a model does: gradients of every parameter, FP32, against the CPU.
struct Layer {
  Tensor table, norm, qkv, bias, out, gate_up, down;
  std::vector<Tensor> all() const { return {table, norm, qkv, bias, out, gate_up, down}; }
};

Tensor loss_of(const Layer& l, const Tensor& teacher, at::Device device) {
  const std::int64_t tokens = 50, heads = 4, kv_heads = 2, dim = 16;
  at::manual_seed(3);
  const auto there = [&](const Tensor& t) { return t.to(device); };
  const Tensor ids = there(at::randint(0, 90, {tokens}, at::kLong));
  const Tensor labels = there(at::randint(0, 90, {tokens}, at::kLong));
  const Tensor angle = at::rand({64, dim / 2}).mul(6);
  const Tensor starts = there(at::tensor({0, 13, 50}, at::kInt));
  const auto quantized = [](const Tensor& x) {
    return ops::fake_quantize(x, 0x1p-9, nvfp4::BlockScale::max);
  };
  Tensor h = ops::embedding(l.table, ids);
  const Tensor x = ops::rms_norm(h, l.norm, 1e-6);
  const Tensor qkv =
      ops::linear(quantized(x), l.qkv, l.bias).view({tokens, heads + 2 * kv_heads, dim});
  const Tensor turned = ops::rope(qkv, there(angle.cos()), there(angle.sin()),
                                  there(at::arange(tokens)), heads + kv_heads);
  h = h + ops::linear(ops::attention(turned, starts, heads, kv_heads, 0.25), l.out);
  h = h + ops::linear(ops::swiglu(ops::linear(h, l.gate_up)), l.down);
  return ops::head_loss(
             {h, l.table, there(teacher), l.table.detach(), labels, there(at::ones({tokens}))},
             {.forward_kl = 0.8, .cross_entropy = 0.2}, 50)
      .loss;
}

TEST(Operators, AutogradThroughALayer) {
  at::manual_seed(2);
  const Layer cpu{random({90, 64}),     random({64}),          random({128, 64}, 0.1),
                  random({128}, 0.1),   random({64, 64}, 0.1), random({96, 64}, 0.1),
                  random({64, 48}, 0.1)};
  const Tensor teacher = random({50, 64});
  const auto leaf = [](const Tensor& t, at::Device d) {
    return t.to(d).detach().clone().requires_grad_();
  };
  const auto on = [&](at::Device d) {
    return Layer{leaf(cpu.table, d), leaf(cpu.norm, d),    leaf(cpu.qkv, d), leaf(cpu.bias, d),
                 leaf(cpu.out, d),   leaf(cpu.gate_up, d), leaf(cpu.down, d)};
  };
  const Layer a = on(at::kCPU), b = on(at::kCUDA);
  const Tensor la = loss_of(a, teacher, at::kCPU), lb = loss_of(b, teacher, at::kCUDA);
  la.backward();
  lb.backward();
  // A code of the fake quantisation may fall on the other side of a tie when its input differs in
  // the last bit; none does with this seed. What remains is FP32 sums of up to 128 terms.
  EXPECT_NEAR(la.item<double>(), lb.cpu().item<double>(), 1e-5 * la.item<double>());
  const auto as = a.all(), bs = b.all();
  for (std::size_t i = 0; i < as.size(); ++i)
    EXPECT_LE(worst(bs[i].grad(), as[i].grad()), 1e-4) << "parameter " << i;
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
