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
#include "ops/pack.h"
#include "ops/paged_attention.h"

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
TEST(Operators, PagedAttention) {
  run_all(paged_attention_cases());
}
TEST(Operators, HeadLoss) {
  run_all(head_cases());
}
TEST(Operators, Mamba) {
  run_all(mamba_cases());
}
TEST(Operators, Experts) {
  run_all(expert_cases());
}
TEST(Operators, ExpertProducts) {
  run_all(expert_product_cases());
}
TEST(Operators, Optimizer) {
  run_all(optimizer_cases());
}

double worst(const Tensor& actual, const Tensor& expected) {
  const Tensor a = actual.cpu().to(at::kDouble), e = expected.to(at::kDouble);
  if (!a.isfinite().all().item<bool>()) return INFINITY;
  return ((a - e).abs().max() / e.abs().max()).item<double>();
}

using Outputs = std::vector<Tensor>;

Outputs call(const char* name, std::vector<at::IValue> stack) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(&stack);
  Outputs outputs;
  for (const at::IValue& v : stack) outputs.push_back(v.toTensor());
  return outputs;
}

// The backward pass gets what the forward pass left on its own device. In BF16 the output, its
// gradient with the probabilities, and the scores' gradient are each rounded before they are
// summed.
TEST(Operators, AttentionBackward) {
  struct Shape {
    std::vector<std::int32_t> starts;
    std::int64_t heads, kv_heads, dim;
    bool equal = false;  // documents of a length for which BF16 takes other kernels
  };
  for (const Shape& s :
       sizes<Shape>({{{0, 1}, 1, 1, 8},
                     {{0, 5, 6, 70}, 4, 2, 64},
                     {{0, 130, 150}, 14, 2, 64},
                     {{0, 40, 103}, 3, 3, 20},
                     {{0, 64, 200}, 4, 1, 128},
                     {{0, 50}, 2, 2, 256},
                     {{0, 128, 256, 384}, 4, 2, 64, true},
                     {{0, 256, 512}, 9, 3, 64, true},
                     {{0, 384}, 14, 2, 64, true},
                     {{0, 128, 256}, 8, 4, 128, true}},
                    {{{0, 1}, 1, 1, 8}, {{0, 5, 6, 70}, 4, 2, 8}, {{0, 10, 43}, 3, 3, 20}})) {
    at::manual_seed(s.dim);
    const std::int64_t tokens = s.starts.back();
    std::int64_t longest = 0;
    for (std::size_t i = 1; i < s.starts.size(); ++i)
      longest = std::max<std::int64_t>(longest, s.starts[i] - s.starts[i - 1]);
    const double scale = 1 / std::sqrt(static_cast<double>(s.dim));
    const Tensor qkv = random({tokens, s.heads + 2 * s.kv_heads, s.dim});
    const Tensor grad = random({tokens, s.heads * s.dim}), starts = at::tensor(s.starts, at::kInt);
    const auto run = [&](const Tensor& x, const Tensor& g, const Tensor& at) {
      const Outputs y = call("qad::attention", {x, at, longest, s.heads, s.kv_heads, scale});
      return Outputs{y[0], y[1],
                     call("qad::attention_backward",
                          {g, x, y[0], y[1], at, longest, s.heads, s.kv_heads, scale})[0]};
    };
    const Outputs expected = run(qkv, grad, starts);
    const Tensor gpu_starts = starts.to(at::kCUDA);
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const bool fp32 = type == at::kFloat;
      const Outputs actual = run(qkv.to(at::kCUDA, type), grad.to(at::kCUDA, type), gpu_starts);
      const double bound = static_cast<double>(tokens + s.dim + 64) * 0x1p-24;
      const std::string what = std::to_string(tokens) + " tokens, " + std::to_string(s.heads) +
                               "/" + std::to_string(s.kv_heads) + " heads of " +
                               std::to_string(s.dim) + " in " + c10::toString(type);
      EXPECT_LE(worst(actual[0], expected[0]), fp32 ? bound : 2 * 0x1p-8) << what;
      EXPECT_LE(worst(actual[2], expected[2]), fp32 ? bound : 4 * 0x1p-8) << what;
      // cuDNN keeps its sums in four dimensions.
      if (!fp32) {
        EXPECT_EQ(actual[1].dim() == 4, s.equal) << what;
      }
    }
  }
}

// What an operator quantises is fake_quantize of its plain result, to the bit; that both of these
// are the CPU's, the cases above say.
TEST(Operators, QuantizedInOnePassOrInTwo) {
  const at::IValue none;
  for (const auto type : {at::kFloat, at::kBFloat16})
    for (const auto& [rows, cols] :
         sizes<std::pair<std::int64_t, std::int64_t>>({{1, 16},
                                                       {3, 7},
                                                       {5, 24},
                                                       {40, 64},
                                                       {33, 576},
                                                       {1000, 896},
                                                       {9, 1536},
                                                       {7, 3584},
                                                       {5, 4864},
                                                       {3, 20000}},
                                                      {{3, 7}, {5, 24}, {33, 576}, {3, 20000}}))
      for (const std::int64_t rule : sizes<std::int64_t>({0, 1, 2}, {0}))
        for (const double global : sizes<double>({0x1p-9, 0x1p-12, 3.1e-4}, {0x1p-12})) {
          at::manual_seed(rows + cols);
          const auto gpu = [&](at::IntArrayRef shape, double size) {
            return random(shape, size).to(at::kCUDA, type);
          };
          const Tensor fused = at::zeros({}, at::kLong).cuda(), apart = fused.clone();
          const auto same = [&](const char* what, const Tensor& y, const Tensor& plain) {
            const Tensor e = call("qad::fake_quantize", {plain, global, rule, apart})[0];
            const auto bits = type == at::kFloat ? at::kInt : at::kShort;
            EXPECT_TRUE(at::equal(y.view(bits), e.view(bits)))
                << what << " of " << rows << " " << cols << ", rule " << rule << ", global "
                << global << " in " << c10::toString(type);
            EXPECT_TRUE(at::equal(fused, apart)) << what << ": clipped";
          };
          const Tensor x = gpu({rows, cols}, 1), delta = gpu({rows, cols}, 1), w = gpu({cols}, 2);
          const auto norm = [&](const Tensor& a, const at::IValue& d, const at::IValue& counter) {
            return call("qad::rms_norm", {a, d, w, 1e-6, global, rule, counter});
          };
          same("rms_norm", norm(x, none, fused)[1], norm(x, none, none)[1]);
          const Outputs summed = norm(x, delta, fused);
          EXPECT_TRUE(at::equal(summed[0], x + delta));
          same("rms_norm of a sum", summed[1], norm(x + delta, none, none)[1]);
          EXPECT_TRUE(at::equal(summed[2], norm(x + delta, none, none)[2]));
          const Tensor gates = gpu({rows, 2 * cols}, 2);
          same("swiglu", call("qad::swiglu", {gates, global, rule, fused})[0],
               call("qad::swiglu", {gates, global, rule, none})[0]);
        }
}

// Whatever a rule made of whatever kind of values comes back to the bit, rounded to BF16 or not;
// blocks that are on no grid come back as NaN.
TEST(Operators, PackedValuesComeBack) {
  const auto gpu = at::TensorOptions(at::kCUDA);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto bits = type == at::kFloat ? at::kInt : at::kShort;
    for (const std::int64_t cols : sizes<std::int64_t>({1, 7, 16, 40, 100, 896, 1536}, {7, 48}))
      for (const double global :
           sizes<double>({1.0, 0x1p-10, 0x1p-116, 0x1p100, 3.1e-4, 0.7, 9.87654e-3, 1.2e35}, {1.0}))
        for (const std::int64_t rule : sizes<std::int64_t>({0, 1, 2}, {0}))
          for (const double binade : sizes<double>({-20.0, 0.0, 6.0, 11.0}, {0.0})) {
            const Tensor spread = at::randn({300, cols}, gpu) *
                                  at::rand({300, cols}, gpu).mul(-12).add(binade).exp2();
            const Tensor x = at::where(at::rand({300, cols}, gpu) < 0.1, spread * 0, spread)
                                 .mul(global)
                                 .to(type);
            const Tensor y = call("qad::fake_quantize",
                                  {x, global, rule, at::zeros({}, gpu.dtype(at::kLong))})[0];
            const ops::Packed p = ops::pack(y, global);
            EXPECT_TRUE(at::equal(ops::unpack(p, cols, global, type).view(bits), y.view(bits)))
                << cols << " columns, global " << global << ", rule " << rule << ", 2^" << binade
                << " in " << c10::toString(type);
          }
    Tensor x = at::full({2, 48}, 0.5, gpu.dtype(type));
    x[1][20] = NAN;
    x[1][40] = INFINITY;
    const Tensor nan = ops::unpack(ops::pack(x, 1), 48, 1, type).isnan().cpu();
    EXPECT_EQ(nan.sum().item<std::int64_t>(), 32);
    EXPECT_TRUE(nan[1].narrow(0, 16, 32).all().item<bool>());
  }
}

// The gradients of a linear that saved its input packed are to the bit those of one that did not.
TEST(Operators, APackedInputChangesNoGradient) {
  for (const auto type : {at::kFloat, at::kBFloat16})
    for (const std::int64_t cols : {40, 576}) {
      const Tensor counter = at::zeros({}, at::kLong).cuda();
      const ops::Quantizer q{3.1e-4, nvfp4::BlockScale::max, counter};
      const Tensor input = ops::fake_quantize(random({70, cols}).to(at::kCUDA, type), q);
      const Tensor weight = random({24, cols}, 0.1).to(at::kCUDA, type),
                   grad = random({70, 24}).to(at::kCUDA, type);
      const auto gradients = [&](const ops::Quantizer* packed) {
        const Tensor x = input.clone().requires_grad_(), w = weight.clone().requires_grad_();
        ops::linear(x, w, {}, packed).backward(grad);
        return Outputs{x.grad(), w.grad()};
      };
      const Outputs plain = gradients(nullptr), packed = gradients(&q);
      EXPECT_TRUE(at::equal(packed[0], plain[0]) && at::equal(packed[1], plain[1])) << cols;
    }
}

TEST(Operators, NanStaysInItsPlace) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    Tensor x = random({2, 32});
    x[1][5] = NAN;
    const Tensor counter = at::zeros({}, at::kLong).cuda();
    const Tensor y =
        ops::fake_quantize(x.to(at::kCUDA, type), {0x1p-8, nvfp4::BlockScale::max, counter}).cpu();
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
      {});
  EXPECT_TRUE(at::equal(out.ce.isnan().to(at::kInt).cpu(), at::tensor({0, 1, 1}, at::kInt)));
}

// A page that does not exist makes NaN of its own sequence alone, and nothing is written there.
// Contexts are long enough to be split.
TEST(Operators, PagedAttentionWithoutItsPage) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Tensor cache = random({80, 16, 1, 64}).to(at::kCUDA, type);
    const Tensor keys = cache.clone(), values = cache.clone();
    const auto run = [&](const Tensor& table, std::int64_t sequences) {
      return ops::paged_attention(random({sequences, 3, 64}).to(at::kCUDA, type), keys, values,
                                  at::arange(sequences + 1, at::kInt).cuda(),
                                  at::full({sequences}, 600, at::kInt).cuda(), table.cuda(), 1, 600,
                                  1, 1, 0.125);
    };
    Tensor table = at::arange(76, at::kInt).view({2, 38});
    table[1][37] = 80;
    const Tensor both = run(table, 2).isnan().cpu();
    EXPECT_FALSE(both[0].any().item<bool>());
    EXPECT_TRUE(both[1].all().item<bool>());
    // token 599 of the first alone was stored
    const Tensor same = keys.eq(cache).all(3).view({-1}).cpu();
    EXPECT_EQ(same.sum().item<std::int64_t>(), 80 * 16 - 1);
    EXPECT_FALSE(same[599].item<bool>());
    Tensor alone = at::arange(38, at::kInt).view({1, 38});
    alone[0][3] = -1;
    EXPECT_TRUE(run(alone, 1).isnan().all().item<bool>());
  }
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
              ops::fake_quantize(at::zeros({2, 4}).cuda(),
                                 {0, nvfp4::BlockScale::max, at::zeros({}, at::kLong).cuda()});
            }).find("was the tensor calibrated?"),
            std::string::npos);
  // More heads than a launch may have blocks beside each other.
  const std::string refused = message([] {
    ops::attention(at::zeros({1, 70002, 1}).cuda(), at::tensor({0, 1}, at::kInt).cuda(), 1, 70000,
                   1, 1);
  });
  EXPECT_EQ(refused.find("[attention] CUDA: invalid "), 0) << refused;
  EXPECT_NE(refused.find("; inputs: Float [1, 70002, 1] on cuda:0, Int [2] on cuda:0"),
            std::string::npos)
      << refused;
  // PyTorch's own errors, too.
  const std::string shapes = message([] {
    ops::linear(at::zeros({2, 4}).cuda(), at::zeros({3, 4}).cuda(), at::zeros({3}));
  });
  EXPECT_EQ(shapes.find("[linear] "), 0) << shapes;
  EXPECT_NE(shapes.find("inputs: Float [2, 4] on cuda:0, Float [3, 4] on cuda:0"),
            std::string::npos)
      << shapes;
}

}  // namespace
}  // namespace qad::cuda::test
