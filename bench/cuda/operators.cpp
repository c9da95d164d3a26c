// Times every CUDA operator at the shapes of a step of 16384 tokens (SmolLM2-135M, Qwen2-0.5B and
// Qwen2.5-7B; the rest at Qwen2-0.5B's), against what the card can do: bytes that must move over
// its copy rate, operations over its BF16 matrix rate, both measured in the same run. An argument
// leaves only the operators whose names hold it.
#include <dlfcn.h>

#include "card.h"
#include "ops/head_loss.h"

namespace {

using namespace qad::bench;

constexpr std::int64_t kTokens = 16384, kHidden = 896, kFfn = 4864, kVocabulary = 151936;
constexpr std::int64_t kDocument = 1024;

struct Model {
  std::int64_t hidden, ffn, heads, kv_heads, dim;
};

void pointwise(const Card& card, const Model& m) {
  const std::int64_t rows = m.heads + 2 * m.kv_heads;
  const double T = kTokens, H = static_cast<double>(m.hidden), F = static_cast<double>(m.ffn);
  const auto row = [&](const char* name, double bytes, const std::function<void()>& f) {
    line(card, fmt::format("{} {}", m.hidden, name).c_str(), bytes, 0, f);
  };
  const at::IValue none;
  const std::int64_t max = 0;
  const Tensor clipped = at::zeros({}, at::kLong).cuda();
  // 4.5 bits a value besides the 16.
  const auto pack = [&](const char* shape, const Tensor& x) {
    const Tensor y = call("qad::fake_quantize", {x, 0x1p-5, max, clipped})[0].toTensor();
    const auto packed = call("qad::pack", {y, 0x1p-5});
    const double bytes = 2.5625 * static_cast<double>(y.numel());
    row(fmt::format("pack {}", shape).c_str(), bytes, [&] { call("qad::pack", {y, 0x1p-5}); });
    row(fmt::format("unpack {}", shape).c_str(), bytes, [&] {
      call("qad::unpack",
           {packed[0], packed[1], y.size(1), 0x1p-5, static_cast<std::int64_t>(at::kBFloat16)});
    });
  };
  {
    const Tensor x = bf16({kTokens, m.hidden}), g = bf16({kTokens, m.hidden}), w = bf16({m.hidden});
    const auto norm = [&](const at::IValue& delta, const at::IValue& counter) {
      return call("qad::rms_norm", {x, delta, w, 1e-6, 0x1p-5, max, counter});
    };
    const auto inverse = norm(none, none)[2];
    const Tensor beside = bf16({kTokens, m.hidden});
    row("rms_norm", 4 * T * H, [&] { norm(none, none); });
    row("rms_norm quantized", 4 * T * H, [&] { norm(none, clipped); });
    row("rms_norm of a sum, quantized", 8 * T * H, [&] { norm(g, clipped); });
    row("rms_norm_backward", 6 * T * H, [&] {
      call("qad::rms_norm_backward", {g, none, x, w, inverse});
    });
    row("rms_norm_backward and residual", 8 * T * H, [&] {
      call("qad::rms_norm_backward", {g, beside, x, w, inverse});
    });
    row("fake_quantize max [T, H]", 4 * T * H, [&] {
      call("qad::fake_quantize", {x, 0x1p-5, max, clipped});
    });
    pack("[T, H]", x);
  }
  {
    const Tensor wide = bf16({kTokens, m.ffn}), joined = bf16({kTokens, 2 * m.ffn});
    for (const auto& [rule, name] : {std::pair(0, "max"), {2, "four_over_six"}, {1, "mse"}})
      row(fmt::format("fake_quantize {} [T, F]", name).c_str(), 4 * T * F, [&, r = rule] {
        call("qad::fake_quantize", {wide, 0x1p-5, std::int64_t{r}, clipped});
      });
    pack("[T, F]", wide);
    row("swiglu", 6 * T * F, [&] { call("qad::swiglu", {joined, 0x1p-5, max, none}); });
    row("swiglu quantized", 6 * T * F, [&] {
      call("qad::swiglu", {joined, 0x1p-5, max, clipped});
    });
    row("swiglu_backward", 10 * T * F, [&] { call("qad::swiglu_backward", {wide, joined}); });
  }
  const Tensor qkv = bf16({kTokens, rows, m.dim}),
               angle = at::rand({kDocument, m.dim / 2}, at::kCUDA);
  const Tensor positions =
      at::arange(kTokens, at::TensorOptions(at::kCUDA).dtype(at::kLong)).remainder(kDocument);
  row("rope", 4 * T * static_cast<double>(rows * m.dim), [&] {
    call("qad::rope", {qkv, angle, angle, positions, m.heads + m.kv_heads, false});
  });
}

void tables(const Card& card) {
  const double T = kTokens, H = kHidden;
  const Tensor table = bf16({kVocabulary, kHidden}), g = bf16({kTokens, kHidden});
  // Ids as text has them: few words are most of it.
  const Tensor ids = at::rand({kTokens}, at::kCUDA).pow(6).mul(kVocabulary).to(at::kLong);
  line(card, "embedding", 4 * T * H, 0, [&] { call("qad::embedding", {table, ids}); });
  line(card, "embedding_backward", 4.0 * kVocabulary * H + 2 * T * H, 0, [&] {
    call("qad::embedding_backward", {g, ids, kVocabulary});
  });
  const Tensor into = at::zeros({kVocabulary, kHidden}, at::kCUDA);
  const double words = static_cast<double>(std::get<0>(at::_unique2(ids)).numel());
  line(card, "embedding_backward_", 8 * words * H + 2 * T * H, 0, [&] {
    call("qad::embedding_backward_", {into, g, ids});
  });
}

void products(const Card& card) {
  const double T = kTokens, H = kHidden, F = kFfn;
  const Tensor x = bf16({kTokens, kHidden}), up = bf16({2 * kFfn, kHidden});
  const Tensor wide = bf16({kTokens, kFfn}), down = bf16({kHidden, kFfn});
  const at::IValue none;
  line(card, "linear gate_up", 2 * (T * H + 2 * H * F + 2 * T * F), 4 * T * H * F, [&] {
    call("qad::linear", {x, up, none});
  });
  line(card, "linear down", 2 * (T * H + H * F + T * F), 2 * T * H * F, [&] {
    call("qad::linear", {wide, down, none});
  });
}

// Products of a few tokens, whose floor is the reading of the weight: an 8B Llama's gate and up,
// more than the caches hold.
void decoding(const Card& card) {
  constexpr std::int64_t kRows = 2 * 14336, kColumns = 4096;
  const Tensor weight = bf16({kRows, kColumns}, 0.02);
  const std::int64_t max = 0;
  const Tensor rounded =
      call("qad::fake_quantize", {weight, 0x1p-14, max, at::zeros({}, at::kLong).cuda()})[0]
          .toTensor();
  const auto packed = call("qad::pack", {rounded, 0x1p-14});
  const c10::List<std::int64_t> ends({kRows});
  const c10::List<double> globals({0x1p-14});
  const at::IValue none;
  const double values = static_cast<double>(weight.numel());
  for (const std::int64_t tokens : {1, 8, 16, 64}) {
    const Tensor x = bf16({tokens, kColumns});
    const auto of = [&](const char* name) { return fmt::format("{} of {} tokens", name, tokens); };
    line(card, of("linear").c_str(), 2 * values, 0, [&] {
      call("qad::linear", {x, weight, none});
    });
    line(card, of("linear_packed").c_str(), 0.5625 * values, 0, [&] {
      call("qad::linear_packed", {x, packed[0], packed[1], ends, globals, none});
    });
  }
}

// `longest`: a bound that is not reached keeps documents from cuDNN.
void attention(const Card& card, const Model& m, std::int64_t document, std::int64_t longest) {
  const double T = kTokens, D = static_cast<double>(document);
  const Tensor qkv = bf16({kTokens, m.heads + 2 * m.kv_heads, m.dim}),
               g = bf16({kTokens, m.heads * m.dim});
  const Tensor starts =
      at::arange(0, kTokens + 1, document, at::TensorOptions().dtype(at::kInt)).cuda();
  const auto forward = [&] {
    return call("qad::attention", {qkv, starts, longest, m.heads, m.kv_heads, 0.125});
  };
  const auto y = forward();
  const std::string name = fmt::format("{}/{} of {}, {}{}", m.heads, m.kv_heads, m.dim, document,
                                       longest == document ? "" : ", packed");
  // Two products, half of each masked.
  const double flops = 2 * T * D * static_cast<double>(m.heads * m.dim);
  line(card, ("attention " + name).c_str(), 0, flops, forward);
  line(card, ("  backward " + name).c_str(), 0, 2.5 * flops, [&] {
    call("qad::attention_backward",
         {g, qkv, y[0], y[1], starts, longest, m.heads, m.kv_heads, 0.125});
  });
}

void head(const Card& card, std::int64_t hidden, std::int64_t vocabulary, bool gradient,
          bool bf16_logits) {
  const double T = kTokens, H = static_cast<double>(hidden), V = static_cast<double>(vocabulary);
  const Tensor student = bf16({kTokens, hidden}), teacher = student + bf16({kTokens, hidden}, 0.1);
  const Tensor weight = bf16({vocabulary, hidden}, 0.05);
  const Tensor labels =
      at::randint(0, vocabulary, {kTokens}, at::TensorOptions(at::kCUDA).dtype(at::kLong));
  const Tensor weights = at::full({kTokens}, 1 / T, at::kCUDA);
  c10::List<double> losses;
  qad::ops::LossWeights w;
  qad::ops::for_each_loss(w, [&](const char*, double x) { losses.push_back(x); });
  line(card,
       fmt::format("{} head_loss{}{}", hidden, bf16_logits ? ", BF16 logits" : "",
                   gradient ? "" : ", no gradient")
           .c_str(),
       0, 2 * T * H * V * (gradient ? 4 : 2), [&] {
         call("qad::head_loss", {student, weight, teacher, weight, labels, weights, losses,
                                 std::int64_t{0}, gradient, gradient, bf16_logits});
       });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) only = argv[1];
  if (!dlopen(QAD_CUDA_PLUGIN, RTLD_NOW | RTLD_GLOBAL)) {
    fmt::print(stderr, "bench_cuda: {}\n", dlerror());
    return 1;
  }
  cudaDeviceProp card_info;
  cudaGetDeviceProperties(&card_info, 0);
  const Card card = measure();
  fmt::print("{}: copy {:.2f} TB/s, BF16 product {:.0f} TFLOP/s\n", card_info.name,
             card.bytes_per_second / 1e12, card.flops_per_second / 1e12);
  fmt::print("BF16, T {} H {} F {} V {}\n", kTokens, kHidden, kFfn, kVocabulary);
  fmt::print("{:<38} {:>9} {:>9} {:>9} {:>9} {:>8}\n", "operator", "ms", "TB/s", "TFLOP/s",
             "floor ms", "reached");
  optimizer(card);
  const Model small{576, 1536, 9, 3, 64}, middle{kHidden, kFfn, 14, 2, 64},
      large{3584, 18944, 28, 4, 128};
  for (const Model& m : {small, middle, large}) pointwise(card, m);
  for (const std::int64_t hidden : {1536, 4096}) {
    const Tensor x = bf16({kTokens, hidden}), y = bf16({kTokens, hidden}), w = bf16({hidden}),
                 inverse = at::ones({kTokens}).cuda();
    const double bytes = 2.0 * kTokens * static_cast<double>(hidden);
    const Tensor clipped = at::zeros({}, at::kLong).cuda();
    line(card, fmt::format("{} rms_norm of a sum, quantized", hidden).c_str(), 4 * bytes, 0, [&] {
      call("qad::rms_norm", {x, y, w, 1e-6, 0x1p-5, std::int64_t{0}, clipped});
    });
    line(card, fmt::format("{} rms_norm_backward", hidden).c_str(), 3 * bytes, 0, [&] {
      call("qad::rms_norm_backward", {x, at::IValue(), y, w, inverse});
    });
  }
  tables(card);
  products(card);
  decoding(card);
  hybrid(card);
  for (const Model& m : {middle, large})
    for (const std::int64_t document : {1024, 4096})
      for (const std::int64_t more : {0, 1}) attention(card, m, document, document + more);
  for (const auto& [hidden, vocabulary] : {std::pair(576, 49152), {kHidden, kVocabulary}})
    for (const bool bf16_logits : {false, true})
      for (const bool gradient : {true, false})
        head(card, hidden, vocabulary, gradient, bf16_logits);
  return 0;
}
