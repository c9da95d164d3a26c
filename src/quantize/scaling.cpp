// Scales from what calibration sees: activation-aware (AWQ) and smoothing (SmoothQuant). The model
// runs layer by layer, unquantised, and each layer's scales are chosen and folded when its inputs
// are known; since that leaves what the layer computes as it was, later layers see the same.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <map>

#include "core/error.h"
#include "ops/ops.h"
#include "ops/ship.h"
#include "quantize/transform.h"

namespace qad::quantize {
namespace {

using models::Linear;

constexpr std::string_view kOperation = "transform";
constexpr int kAlphas = 20;          // of the search: 0, 1/20, ... 19/20
constexpr std::int64_t kRows = 512;  // inputs of a linear on which alphas are compared
constexpr double kLeast = 1e-4;      // of a channel's magnitude: none is scaled without bound

// What a linear reads over calibration.
struct Inputs {
  at::Tensor sum, largest;  // of |x| by column
  std::int64_t count = 0;
  std::vector<at::Tensor> rows;  // some of them, evenly chosen
};
using InputsOf = std::map<const Linear*, Inputs>;

void note_inputs(Inputs& in, const at::Tensor& x, std::int64_t wanted) {
  const at::Tensor magnitude = x.abs();
  const at::Tensor sum = magnitude.sum(0), largest = magnitude.amax(0);
  in.sum = in.sum.defined() ? in.sum.add(sum) : sum;
  in.largest = in.largest.defined() ? in.largest.maximum(largest) : largest;
  in.count += x.size(0);
  const std::int64_t step = std::max<std::int64_t>(1, x.size(0) / wanted);
  in.rows.push_back(x.slice(0, 0, std::min(x.size(0), step * wanted), step).clone());
}

// Quantised readers whose inputs were seen: what they make of x, W x, and its error under scales.
class Outputs {
 public:
  // `layers`: of the model, for the policy.
  Outputs(const Policy& policy, const Site& site, const std::vector<const Linear*>& readers,
          const InputsOf& inputs, std::int64_t layers)
      : policy_(policy), site_(site) {
    for (const Linear* l : readers) {
      const Inputs& in = inputs.at(l);
      const at::Tensor x = at::cat(in.rows);
      const bool fp8 = decide(policy, *l, layers).precision == ops::Precision::fp8;
      readers_.push_back({l, x, in.largest, ops::linear(x, l->weight.value), fp8});
    }
  }

  double error(const at::Tensor& s) const {
    const at::Tensor columns = site_.columns(s);
    double sum = 0;
    for (const Reader& r : readers_) {
      const at::Tensor weight = r.linear->weight.value.mul(columns);
      at::Tensor value = at::empty_like(weight);
      if (r.fp8)
        ops::ship_fp8_(weight, value, at::zeros({}, weight.options()), policy_.global);
      else
        ops::ship_(weight, value, at::zeros({}, weight.options()), {}, policy_.weights,
                   policy_.global);
      const at::Tensor made = ops::linear(input(r, columns), value);
      sum += made.sub(r.made).square().sum(at::kDouble).item<double>();
    }
    return sum;
  }

 private:
  struct Reader {
    const Linear* linear;
    at::Tensor x, largest, made;
    bool fp8;
  };

  at::Tensor input(const Reader& r, const at::Tensor& columns) const {
    const at::Tensor x = r.x.div(columns);
    if (!policy_.activations) return x;
    const auto amax = r.largest.div(columns).max().item<double>() * policy_.input_headroom;
    if (amax == 0) return x;
    const at::Tensor clipped = at::zeros({}, x.options().dtype(at::kLong));
    if (r.fp8)
      return ops::fake_quantize_fp8(x, ops::fp8_scale(static_cast<float>(amax), policy_.global),
                                    clipped);
    const float global =
        nvfp4::global_scale(static_cast<float>(amax), policy_.global, policy_.inputs);
    return ops::fake_quantize(x, {global, policy_.inputs, clipped});
  }

  const Policy& policy_;
  const Site& site_;
  std::vector<Reader> readers_;
};

// Of columns [columns] one number a channel: the mean or the largest of those that read it.
at::Tensor channels_of(const Site& site, const at::Tensor& columns, bool largest) {
  const at::Tensor by_head = columns.view({-1, site.repeat, site.run});
  return (largest ? by_head.amax(1) : by_head.mean(1)).reshape({-1});
}

at::Tensor balanced(const at::Tensor& s) {
  return s.div(s.max().mul(s.min()).sqrt());
}

SiteScales search(const Site& site, const Outputs& outputs, const at::Tensor& mean) {
  SiteScales chosen{site.name, 0, outputs.error(at::ones_like(mean)), 0};
  chosen.error_after = chosen.error_before;
  at::Tensor best;
  for (int i = 1; i < kAlphas; ++i) {
    const double alpha = static_cast<double>(i) / kAlphas;
    const at::Tensor s = balanced(mean.clamp_min(kLeast).pow(alpha));
    const double error = outputs.error(s);
    if (!(error < chosen.error_after)) continue;
    chosen.alpha = alpha;
    chosen.error_after = error;
    best = s;
  }
  if (best.defined()) scale(site, best);
  return chosen;
}

SiteScales smooth(const Site& site, const std::vector<const Linear*>& readers,
                  const at::Tensor& largest, double smoothing) {
  at::Tensor weight;
  for (const Linear* l : readers) {
    const at::Tensor here = channels_of(site, l->weight.value.abs().amax(0), true);
    weight = weight.defined() ? weight.maximum(here) : here;
  }
  scale(site, balanced(largest.clamp_min(kLeast).pow(smoothing).div(
                  weight.clamp_min(kLeast).pow(1 - smoothing))));
  return {site.name, smoothing};
}

}  // namespace

std::vector<SiteScales> scale_channels(models::Model& model, const Policy& policy, ScaleRule rule,
                                       double smoothing, const std::vector<models::Tokens>& batches,
                                       const std::function<void(std::size_t done)>& progress) {
  const at::NoGradGuard no_grad;
  check(model.placement.type == at::kFloat, kOperation, "expected a model in FP32");
  check(!batches.empty(), kOperation, "expected calibration data, found none");
  check(smoothing >= 0 && smoothing <= 1, kOperation, "smoothing: expected 0 to 1, found {}",
        smoothing);
  const auto layers = static_cast<std::int64_t>(model.layers.size());
  const auto wanted = std::max<std::int64_t>(1, kRows / static_cast<std::int64_t>(batches.size()));
  std::vector<SiteScales> all;
  std::vector<at::Tensor> streams;
  for (const models::Tokens& batch : batches) streams.push_back(models::embed(model, batch));
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    InputsOf inputs;
    for (std::size_t b = 0; b < batches.size(); ++b)
      streams[b] = models::forward_layer(
          model, i, batches[b], streams[b],
          [&](const Linear& l, const at::Tensor& x) { note_inputs(inputs[&l], x, wanted); });
    for (const Site& site : sites(model.layers[i])) {
      std::vector<const Linear*> readers;
      at::Tensor sum, largest;
      std::int64_t count = 0;
      for (const Linear* l : site.readers) {
        const auto seen = inputs.find(l);  // an expert may have had no token
        if (seen == inputs.end() || !decide(policy, *l, layers).quantize) continue;
        readers.push_back(l);
        const Inputs& in = seen->second;
        sum = sum.defined() ? sum.add(in.sum) : in.sum;
        largest = largest.defined() ? largest.maximum(in.largest) : in.largest;
        count += in.count;
      }
      if (readers.empty() || (rule == ScaleRule::smoothquant && !site.after_norm)) continue;
      if (rule == ScaleRule::smoothquant)
        all.push_back(smooth(site, readers, channels_of(site, largest, true), smoothing));
      else
        all.push_back(search(site, Outputs(policy, site, readers, inputs, layers),
                             channels_of(site, sum.div(static_cast<double>(count)), false)));
    }
    if (progress) progress(i + 1);
  }
  return all;
}

}  // namespace qad::quantize
