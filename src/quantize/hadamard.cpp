// The rotation of a model's residual stream, which spreads the few large channels over all: with
// h Q in the place of h, what reads h becomes W Q and what adds to it Q^T W (SliceGPT, arXiv
// 2401.15024; QuaRot, arXiv 2404.00456). A norm's weight stands between, so it first goes into what
// reads it; the rest of a norm is the same of h and of h Q.
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>

#include <bit>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/random.h"
#include "ops/ops.h"
#include "quantize/transform.h"

namespace qad::quantize {
namespace {

using models::Linear;
using models::Parameter;

constexpr std::string_view kOperation = "transform";

// x Q of the rows of x.
void turn_columns(const at::Tensor& x, const at::Tensor& q) {
  x.copy_(ops::linear(x, q.t().contiguous()));
}

// Q^T W of columns of W, which are what a product makes, and of its bias.
void turn_outputs(const Linear& l, const at::Tensor& q) {
  l.weight.value.copy_(ops::linear(q.t().contiguous(), l.weight.value.t().contiguous()));
  if (l.bias) turn_columns(l.bias->value.unsqueeze(0), q);
}

// The norm's weight goes into the columns of what reads it.
void absorb(const Parameter& norm, const std::vector<const Parameter*>& readers) {
  for (const Parameter* reader : readers) reader->value.mul_(norm.value);
  norm.value.fill_(1);
}

// Those that read the residual stream by way of a norm, and those that add to it.
struct Stream {
  std::vector<const Parameter*> readers;
  std::vector<const Linear*> writers;
};

Stream stream_of(models::Layer& layer) {
  Stream stream;
  for (const Site& site : sites(layer)) {
    if (!site.after_norm) continue;
    std::vector<const Parameter*> readers;
    for (const Linear* reader : site.readers) readers.push_back(&reader->weight);
    if (site.router != nullptr) readers.push_back(site.router);
    absorb(*site.maker, readers);
    stream.readers.insert(stream.readers.end(), readers.begin(), readers.end());
  }
  if (layer.attention) stream.writers.push_back(&layer.attention->output);
  if (layer.mamba) stream.writers.push_back(&layer.mamba->out);
  if (layer.mlp) stream.writers.push_back(&layer.mlp->down);
  if (layer.experts) {
    for (const models::Mlp& expert : layer.experts->routed) stream.writers.push_back(&expert.down);
    if (layer.experts->shared) stream.writers.push_back(&layer.experts->shared->down);
  }
  return stream;
}

// Attention weighs values, so what turns each of them turns their sum.
void turn_values(models::Attention& a, const at::Tensor& q) {
  const models::AttentionConfig& c = a.config;
  const std::int64_t before = (c.heads + c.kv_heads) * c.head_dim, rows = c.kv_heads * c.head_dim;
  const at::Tensor v = a.qkv.weight.value.narrow(0, before, rows);
  const std::int64_t cols = v.size(1);
  const at::Tensor by_head = v.view({c.kv_heads, c.head_dim, cols}).transpose(1, 2).contiguous();
  v.copy_(ops::linear(by_head.view({-1, c.head_dim}), q.t().contiguous())
              .view({c.kv_heads, cols, c.head_dim})
              .transpose(1, 2)
              .reshape({rows, cols}));
  if (a.qkv.bias)
    turn_columns(a.qkv.bias->value.narrow(0, before, rows).view({c.kv_heads, c.head_dim}), q);
  turn_columns(a.output.weight.value.view({-1, c.head_dim}), q);
}

}  // namespace

at::Tensor hadamard(std::int64_t n, std::uint64_t seed) {
  check(n > 0, kOperation, "hadamard: expected a size of at least 1, found {}", n);
  const auto power = std::int64_t{1} << std::countr_zero(static_cast<std::uint64_t>(n));
  const std::int64_t odd = n / power;
  const at::Tensor out = at::empty({n, n}, at::kFloat);
  float* to = out.data_ptr<float>();
  Random random{seed};
  for (std::int64_t i = 0; i < n; ++i) {
    const double sign = random.bits() % 2 == 0 ? 1 : -1;
    for (std::int64_t j = 0; j < n; ++j) {
      const double angle = 2 * std::numbers::pi *
                           static_cast<double>((i / power) * (j / power) % odd) /
                           static_cast<double>(odd);
      const auto both = static_cast<std::uint64_t>(i % power & j % power);
      const double walsh = std::popcount(both) % 2 == 0 ? 1 : -1;
      to[i * n + j] = static_cast<float>(sign * walsh * (std::cos(angle) + std::sin(angle)) /
                                         std::sqrt(static_cast<double>(n)));
    }
  }
  return out;
}

bool untie_head(models::Model& model) {
  if (model.head) return false;
  const Parameter& table = model.embedding;
  model.config.tied = false;
  model.head = Linear{"lm_head",
                      -1,
                      {{{"lm_head.weight", table.value.size(0)}}, table.value.clone()},
                      std::nullopt,
                      nullptr};
  return true;
}

void rotate(models::Model& model, std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  check(model.placement.type == at::kFloat, kOperation, "hadamard: expected a model in FP32");
  check(model.head.has_value(), kOperation,
        "hadamard: the head is the embedding, and only one of them is scaled by the final norm; "
        "expected a head of its own");
  for (const Linear* l : models::linears(model))
    check(!l->quant, kOperation, "{}: expected an unquantised weight, found an NVFP4 one",
          linear_name(l->weight.parts.front()));
  const at::Device device = model.placement.device;
  const at::Tensor q = hadamard(model.config.hidden, seed).to(device);
  turn_columns(model.embedding.value, q);
  for (models::Layer& layer : model.layers) {
    const Stream stream = stream_of(layer);
    for (const Parameter* reader : stream.readers) turn_columns(reader->value, q);
    for (const Linear* writer : stream.writers) turn_outputs(*writer, q);
    if (layer.attention)
      turn_values(*layer.attention,
                  hadamard(layer.attention->config.head_dim, seed + 1).to(device));
  }
  absorb(model.final_norm, {&model.head->weight});
  turn_columns(model.head->weight.value, q);
}

}  // namespace qad::quantize
