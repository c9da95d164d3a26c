// Time of each operator, forward and backward, at the shapes of stories260K and of SmolLM2-135M,
// and of Mamba's at those of a layer of Nemotron 3 Nano; bench/ops_peer.py prints the same rows
// from PyTorch. Options: [shape] [repeats].
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <functional>
#include <string_view>

#include "core/error.h"
#include "ops/allocator.h"
#include "ops/head_loss.h"
#include "ops/mamba.h"
#include "ops/ops.h"
#include "timing.h"

namespace {

using at::Tensor;
using qad::bench::seconds;
using namespace qad;

struct Shape {
  const char* name;
  std::int64_t documents, length, hidden, heads, kv_heads, dim, ffn, vocabulary;
  std::int64_t tokens() const { return documents * length; }
};
const Shape kShapes[] = {{"stories260K", 16, 256, 64, 8, 4, 8, 176, 512},
                         {"SmolLM2-135M", 2, 256, 576, 9, 3, 64, 1536, 49152}};

// The fastest of the repeats: what the code takes when nobody disturbs it.
void measure(const Shape& s, const char* name, int repeats, double flop, double bytes,
             const std::vector<Tensor>& leaves, const std::function<Tensor()>& f) {
  double forward = 1e9, backward = 1e9;
  for (int i = 0; i < repeats; ++i) {
    {
      at::NoGradGuard no_grad;
      forward = std::min(forward, seconds(f));
    }
    const Tensor y = f();
    for (const Tensor& t : leaves) t.mutable_grad() = Tensor();
    const Tensor g = at::ones_like(y);
    backward = std::min(backward, seconds([&] { y.backward(g); }));
  }
  fmt::print("{:13} {:14} {:9.3f} {:9.3f} {:8.1f} {:8.1f}\n", s.name, name, forward * 1e3,
             backward * 1e3, flop / forward * 1e-9, bytes / forward * 1e-9);
}

Tensor leaf(at::IntArrayRef shape, double scale = 1) {
  return at::randn(shape, at::kFloat).mul_(scale).requires_grad_();
}

void run(const Shape& s, int repeats) {
  const std::int64_t t = s.tokens(), h = s.hidden, qkv = (s.heads + 2 * s.kv_heads) * s.dim;
  const double row = 4.0 * static_cast<double>(t);
  const Tensor x = leaf({t, h}), norm = leaf({h}), table = leaf({s.vocabulary, h}, 0.05);
  const Tensor ids = at::randint(0, s.vocabulary, {t}, at::kLong);
  const Tensor at = at::arange(t, at::kLong).remainder(s.length);
  const Tensor starts = at::arange(0, t + 1, s.length, at::kInt);
  const auto d = [](std::int64_t n) { return static_cast<double>(n); };

  measure(s, "embedding", repeats, 0, 2 * row * d(h), {table},
          [&] { return ops::embedding(table, ids); });
  measure(s, "rms_norm", repeats, 0, 2 * row * d(h), {x, norm},
          [&] { return ops::rms_norm(x, norm, 1e-5); });
  const Tensor clipped = at::zeros({}, at::kLong);
  measure(s, "fake_quantize", repeats, 0, 2 * row * d(h), {x}, [&] {
    return ops::fake_quantize(x, {1.0 / 512, nvfp4::BlockScale::max, clipped});
  });
  const Tensor w = leaf({qkv, h});
  measure(s, "linear qkv", repeats, 2 * d(t * h * qkv), row * d(h + qkv), {x, w},
          [&] { return ops::linear(x, w); });
  const Tensor wide = leaf({2 * s.ffn, h});
  measure(s, "linear gate_up", repeats, 4 * d(t * h * s.ffn), row * d(h + 2 * s.ffn), {x, wide},
          [&] { return ops::linear(x, wide); });
  const Tensor heads = leaf({t, s.heads + 2 * s.kv_heads, s.dim});
  const Tensor cos = at::rand({s.length, s.dim / 2}), sin = at::rand({s.length, s.dim / 2});
  measure(s, "rope", repeats, 0, 2 * row * d(qkv), {heads},
          [&] { return ops::rope(heads, cos, sin, at, s.heads + s.kv_heads); });
  // two products over the half of the pairs that causality leaves
  measure(s, "attention", repeats, 2 * d(t * s.length * s.heads * s.dim), row * d(qkv + h), {heads},
          [&] { return ops::attention(heads, starts, s.length, s.heads, s.kv_heads, 0.125); });
  const Tensor gates = leaf({t, 2 * s.ffn});
  measure(s, "swiglu", repeats, 0, 3 * row * d(s.ffn), {gates}, [&] { return ops::swiglu(gates); });
  // With gradients the head's work is in its forward pass: here it is timed as one.
  const ops::HeadInputs in{
      x, table, at::randn({t, h}), at::randn({s.vocabulary, h}).mul_(0.05), ids, at::ones({t})};
  double evaluate = 1e9, train = 1e9;
  for (int i = 0; i < repeats; ++i) {
    {
      at::NoGradGuard no_grad;
      evaluate = std::min(evaluate, seconds([&] { ops::head_loss(in, {}); }));
    }
    train = std::min(train, seconds([&] { ops::head_loss(in, {}).loss.backward(); }));
    x.mutable_grad() = table.mutable_grad() = Tensor();
  }
  const double product = 2 * d(t * h * s.vocabulary);
  fmt::print("{:13} {:14} {:9.3f} {:9.3f} {:8.1f} {:8.1f}\n", s.name, "head_loss", evaluate * 1e3,
             train * 1e3, 2 * product / evaluate * 1e-9, 4 * product / train * 1e-9);
}

// What a scan takes: a token's share of the products with B, C and states of 128.
void run_mamba(const char* name, int repeats) {
  constexpr std::int64_t documents = 2, length = 512, heads = 64, dim = 64, groups = 8, state = 128;
  constexpr std::int64_t t = documents * length, inner = heads * dim;
  constexpr std::int64_t channels = inner + 2 * groups * state;
  const Shape shape{name, documents, length, 0, heads, 0, dim, 0, 0};
  const Tensor x = leaf({t, channels}), w = leaf({channels, 1, 4}), b = leaf({channels});
  const Tensor dt = leaf({t, heads}), y = leaf({t, inner}), z = leaf({t, inner});
  const ops::ScanParameters p{leaf({heads}), leaf({heads}), leaf({heads})};
  const Tensor starts = at::arange(0, t + 1, length, at::kInt), norm = leaf({inner});
  constexpr double row = 4.0 * t;
  measure(shape, "causal_conv", repeats, 8.0 * t * channels, 2 * row * channels, {x, w, b},
          [&] { return ops::causal_conv(x, w, b, starts); });
  measure(shape, "mamba_scan", repeats,
          2.0 * t * (2 * inner * state + 64 * (inner + groups * state)), row * (channels + inner),
          {x, dt, p.dt_bias, p.a_log, p.d}, [&] {
            return ops::mamba_scan(x, dt, p, starts, length, {dim, groups});
          });
  measure(shape, "gated_rms_norm", repeats, 0, 3 * row * inner, {y, z, norm},
          [&] { return ops::gated_rms_norm(y, z, norm, groups, 1e-5); });
  // Decoding: a token of each of 16 texts.
  constexpr std::int64_t texts = 16;
  const Tensor states = at::zeros({texts, heads, dim, state});
  const ops::StateSlots slots{at::full({texts}, 9, at::kInt), at::arange(0, texts, at::kInt)};
  const Tensor some = x.detach().narrow(0, 0, texts), steps = dt.detach().narrow(0, 0, texts);
  const Tensor each = at::arange(0, texts + 1, at::kInt);
  const at::NoGradGuard no_grad;
  double best = 1e9;
  for (int i = 0; i < repeats; ++i)
    best = std::min(best, seconds([&] {
                      ops::mamba_scan_cached(some, steps, p, each, slots, states, {dim, groups});
                    }));
  fmt::print("{:13} {:14} {:9.3f} {:>9} {:8.1f} {:8.1f}\n", name, "scan, 16 texts", best * 1e3, "",
             5e-9 * static_cast<double>(states.numel()) / best,
             8e-9 * static_cast<double>(states.numel()) / best);
}

}  // namespace

int main(int argc, char** argv) {
  ops::install_allocator();
  const std::string_view only = argc > 1 ? argv[1] : "";
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 10;
  fmt::print("{} threads; head_loss: evaluation, then training whole, GFLOP/s of each\n",
             at::get_num_threads());
  fmt::print("{:13} {:14} {:>9} {:>9} {:>8} {:>8}\n", "shape", "operator", "fwd ms", "bwd ms",
             "GFLOP/s", "GB/s");
  for (const Shape& s : kShapes)
    if (only.empty() || std::string_view(s.name).starts_with(only)) run(s, repeats);
  if (only.empty() || std::string_view("Nemotron3Nano").starts_with(only))
    run_mamba("Nemotron3Nano", repeats);
}
