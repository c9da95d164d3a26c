// Times every CUDA operator at the shapes of a Qwen2-0.5B step of 16384 tokens, against what the
// card can do: bytes that must move over its copy rate, operations over its BF16 matrix rate, both
// measured in the same run. An argument leaves only the operators whose names hold it.
#include <dlfcn.h>

#include "card.h"
#include "ops/head_loss.h"

namespace {

using namespace qad::bench;

constexpr std::int64_t kTokens = 16384, kHidden = 896, kFfn = 4864, kVocabulary = 151936;
constexpr std::int64_t kHeads = 14, kKvHeads = 2, kDim = 64, kDocument = 1024;

void pointwise(const Card& card) {
  const double T = kTokens, H = kHidden, F = kFfn;
  const Tensor x = bf16({kTokens, kHidden}), g = bf16({kTokens, kHidden}), w = bf16({kHidden});
  const Tensor wide = bf16({kTokens, kFfn}), joined = bf16({kTokens, 2 * kFfn});
  const auto norm = call("qad::rms_norm", {x, w, 1e-6});
  line(card, "rms_norm", 4 * T * H, 0, [&] { call("qad::rms_norm", {x, w, 1e-6}); });
  line(card, "rms_norm_backward", 6 * T * H, 0, [&] {
    call("qad::rms_norm_backward", {g, x, w, norm[1]});
  });
  for (const auto& [rule, name] : {std::pair(0, "max"), {2, "four_over_six"}, {1, "mse"}})
    line(card, fmt::format("fake_quantize {} [T, F]", name).c_str(), 4 * T * F, 0, [&, r = rule] {
      call("qad::fake_quantize", {wide, 0x1p-9, std::int64_t{r}});
    });
  line(card, "fake_quantize max [T, H]", 4 * T * H, 0, [&] {
    call("qad::fake_quantize", {x, 0x1p-9, std::int64_t{0}});
  });
  line(card, "swiglu", 6 * T * F, 0, [&] { call("qad::swiglu", {joined}); });
  line(card, "swiglu_backward", 10 * T * F, 0, [&] {
    call("qad::swiglu_backward", {wide, joined});
  });
  const std::int64_t rows = kHeads + 2 * kKvHeads;
  const Tensor qkv = bf16({kTokens, rows, kDim}),
               angle = at::rand({kDocument, kDim / 2}, at::kCUDA);
  const Tensor positions =
      at::arange(kTokens, at::TensorOptions(at::kCUDA).dtype(at::kLong)).remainder(kDocument);
  line(card, "rope", 4 * T * rows * kDim, 0, [&] {
    call("qad::rope", {qkv, angle, angle, positions, kHeads + kKvHeads, false});
  });
  const Tensor table = bf16({kVocabulary, kHidden});
  // Ids as text has them: few words are most of it.
  const Tensor ids = at::rand({kTokens}, at::kCUDA).pow(6).mul(kVocabulary).to(at::kLong);
  line(card, "embedding", 4 * T * H, 0, [&] { call("qad::embedding", {table, ids}); });
  line(card, "embedding_backward", 4.0 * kVocabulary * H + 2 * T * H, 0, [&] {
    call("qad::embedding_backward", {g, ids, kVocabulary});
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

void attention(const Card& card, std::int64_t document) {
  const double T = kTokens, D = static_cast<double>(document), width = kHeads * kDim;
  const Tensor qkv = bf16({kTokens, kHeads + 2 * kKvHeads, kDim}),
               g = bf16({kTokens, kHeads * kDim});
  const Tensor cpu = at::arange(0, kTokens + 1, document, at::TensorOptions().dtype(at::kInt));
  for (const bool on_cpu : {true, false}) {
    const Tensor starts = on_cpu ? cpu : cpu.cuda();
    const auto forward = [&] {
      return call("qad::attention", {qkv, starts, kHeads, kKvHeads, 0.125});
    };
    const Tensor lse = forward()[1].toTensor();
    const std::string name = fmt::format("{}, {}", document, on_cpu ? "starts on CPU" : "on GPU");
    const double flops = 2 * T * D * width;  // two products, half of each masked
    line(card, ("attention " + name).c_str(), 0, flops, forward);
    line(card, ("  backward " + name).c_str(), 0, 2.5 * flops, [&] {
      call("qad::attention_backward", {g, qkv, lse, starts, kHeads, kKvHeads, 0.125});
    });
  }
}

void head(const Card& card, std::int64_t chunk, bool gradient) {
  const double T = kTokens, H = kHidden, V = kVocabulary;
  const Tensor student = bf16({kTokens, kHidden}),
               teacher = student + bf16({kTokens, kHidden}, 0.1);
  const Tensor weight = bf16({kVocabulary, kHidden}, 0.05);
  const Tensor labels =
      at::randint(0, kVocabulary, {kTokens}, at::TensorOptions(at::kCUDA).dtype(at::kLong));
  const Tensor weights = at::ones({kTokens}, at::kCUDA);
  c10::List<double> losses;
  qad::ops::LossWeights w;
  qad::ops::for_each_loss(w, [&](const char*, double x) { losses.push_back(x); });
  line(card, fmt::format("head_loss chunk {}{}", chunk, gradient ? "" : ", no gradient").c_str(), 0,
       2 * T * H * V * (gradient ? 4 : 2), [&] {
         call("qad::head_loss", {student, weight, teacher, weight, labels, weights, losses, T,
                                 chunk, gradient, gradient});
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
  fmt::print("{:<34} {:>9} {:>9} {:>9} {:>9} {:>8}\n", "operator", "ms", "TB/s", "TFLOP/s",
             "floor ms", "reached");
  optimizer(card);
  pointwise(card);
  products(card);
  attention(card, 1024);
  attention(card, 4096);
  head(card, 0, true);
  head(card, 4096, true);
  head(card, 0, false);
  return 0;
}
