// A random model, quantised, in the trainer's own loop.
#include "recipe/bench.h"

#include <ATen/ops/randn.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "quantize/quantize.h"
#include "recipe/bench_model.h"
#include "recipe/steps.h"

namespace qad::recipe {
namespace {

double product_flops(const models::Placement& placement) {
  const std::int64_t n = placement.device.is_cpu() ? 1024 : 8192;
  const auto options = at::TensorOptions().dtype(placement.type).device(placement.device);
  const at::Tensor a = at::randn({n, n}, options), b = at::randn({n, n}, options);
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 5; ++i) {
    const int times = placement.device.is_cpu() ? 1 : 10;
    at::Tensor c = a.mm(b);
    c.narrow(0, 0, 1).sum().item<float>();  // waits
    const auto start = std::chrono::steady_clock::now();
    for (int k = 0; k < times; ++k) c = a.mm(b);
    c.narrow(0, 0, 1).sum().item<float>();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count() / times);
  }
  const double d = static_cast<double>(n);
  return 2 * d * d * d / best;
}

// Teacher forward 2 N, student forward 2 N and backward 4 N; attention likewise four times its
// forward, of a mean context of half a sequence. Mamba's scan, 2 % of its projections, is not
// counted.
double flops_per_token(const models::Model& model, std::int64_t seq_len) {
  double weights = static_cast<double>(model.head_weight().numel()), attention = 0;
  for (const models::Linear* l : models::linears(model))
    if (l->kind != "lm_head") weights += static_cast<double>(l->weight.value.numel());
  for (const models::Layer& layer : model.layers) {  // of which a token meets a few
    if (!layer.experts) continue;
    const models::ExpertsConfig& c = layer.experts->config;
    for (const models::Mlp& expert : layer.experts->routed)
      for (const models::Linear* l : {&expert.gate_up, &expert.down})
        weights -= static_cast<double>(l->weight.value.numel()) *
                   (1 - static_cast<double>(c.chosen) / static_cast<double>(c.experts));
    weights += static_cast<double>(layer.experts->router.value.numel());
  }
  for (const models::LayerConfig& layer : model.config.layers)
    if (layer.attention)
      attention += static_cast<double>(layer.attention->heads * layer.attention->head_dim);
  return 8 * weights + 8 * attention * static_cast<double>(seq_len);
}

data::Stream random_stream(std::int64_t vocabulary, std::int64_t seq_len, std::int64_t sequences) {
  data::Source source;
  for (std::int64_t s = 0; s < sequences; ++s) {
    data::Document d;
    Random random{17, static_cast<std::uint64_t>(s)};
    for (std::int64_t i = 0; i < seq_len; ++i) {
      d.ids.push_back(
          static_cast<text::TokenId>(random.below(static_cast<std::uint64_t>(vocabulary))));
      d.counts.push_back(true);
    }
    source.documents.push_back(std::move(d));
  }
  source.sequences = data::pack(source.documents, seq_len, false);
  return data::Stream({std::move(source)}, 0);
}

}  // namespace

BenchResult bench(const BenchOptions& options) {
  models::Placement placement = models::placement_of(options.device);
  const bool gpu = !placement.device.is_cpu();
  distill::TrainConfig config = options.train;
  config.keep_best = 0;
  BenchResult result;
  result.machine = models::machine_name(placement.device);
  const models::ModelConfig shape = bench_config(options.model);
  check(options.recompute_layers <= static_cast<std::int64_t>(shape.layers.size()), "bench",
        "--recompute-layers: the model has {} layers, found {}", shape.layers.size(),
        options.recompute_layers);
  placement.recomputed_layers = options.recompute_layers;
  quantize::Policy policy = quantize::preset("nvfp4");
  if (!options.quantize) {
    policy.rules.push_back({"*", false, "--no-quantize"});
    policy.activations = false;
  }
  if (gpu) {
    const double room = models::memory_of(placement.device).free;
    const distill::Fit fit = distill::fit_memory(shape, &shape, config, placement, room, 0, policy);
    fit.apply(config, placement);
    placement.packs_inputs = policy.activations && (fit.packs_inputs || options.pack);
  }
  result.micro_sequences = config.micro_sequences;
  result.packs_inputs = placement.packs_inputs;
  result.cuda_graphs = gpu && config.cuda_graphs;
  result.recomputed_layers = placement.recomputed_layers;
  result.plan = distill::plan_memory(shape, &shape, config, placement, 0, policy);
  result.product_flops = product_flops(placement);

  const models::Model teacher = random_model(shape, placement);
  models::Model student = random_model(shape, placement);
  result.flops_per_token = flops_per_token(student, config.seq_len);
  std::vector<at::Tensor> originals = values_of(student);
  const data::Stream stream = random_stream(shape.vocabulary, config.seq_len,
                                            std::max<std::int64_t>(8, config.batch_sequences));
  std::vector<float> amax;
  std::vector<quantize::CacheMaxima> cache;
  if (policy.needs_maxima())
    amax = quantize::calibrate(student, {stream.batch(0, 1).tokens}, {}, &cache);
  quantize::quantize(student, policy, amax);
  if (policy.fp8_cache) quantize::quantize_cache(student, policy.global, cache);

  constexpr std::int64_t kWarmUp = 4;  // the third is recorded
  const std::int64_t timed = config.steps;
  config.steps = kWarmUp + timed + 2;
  distill::Trainer trainer(student, std::move(originals), &teacher, policy, config);
  std::vector<double> seconds;
  std::optional<OperatorTimes> watch;
  distill::Callbacks callbacks;
  const double tokens = static_cast<double>(config.seq_len * config.batch_sequences);
  callbacks.step = [&](const distill::StepInfo& info) {
    if (info.step > kWarmUp && info.step <= kWarmUp + timed)
      seconds.push_back(tokens / info.tokens_per_second);
    if (info.step == kWarmUp + timed) trainer.stop_recording();
    if (info.step == kWarmUp + timed + 1) watch.emplace(placement.device);
  };
  trainer.train(stream, {}, callbacks);
  result.times = watch->stop();
  std::sort(seconds.begin(), seconds.end());
  result.seconds_per_step = seconds[seconds.size() / 2];
  result.tokens_per_second = tokens / result.seconds_per_step;
  if (gpu) result.peak_bytes = models::memory_of(placement.device).peak;
  return result;
}

}  // namespace qad::recipe
