// Largest inputs over calibration data, on the unquantised model, and those of experts that it does
// not reach.
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "quantize/loaded.h"
#include "quantize/quantize.h"

namespace qad::quantize {

namespace {

// The largest magnitude of each linear's input so far.
class Maxima {
 public:
  explicit Maxima(const models::Model& model) : linears_(models::linears(model)) {
    for (const models::Linear* l : linears_) {
      check(!l->quant, "calibrate",
            "{}: expected an unquantised model, found a quantised weight; calibrate the BF16 model",
            l->weight.parts.front().name);
      largest_[l] = 0;
    }
  }

  void observe(const models::Linear& l, const at::Tensor& input) {
    if (input.is_cpu()) {
      const at::Tensor x = input.contiguous();
      const std::span values(x.const_data_ptr<float>(), static_cast<std::size_t>(x.numel()));
      float& amax = largest_.at(&l);
      amax = std::max(amax, nvfp4::amax(values, "input of " + linear_name(l.weight.parts.front())));
    } else {
      const at::Tensor amax = input.abs().max();
      at::Tensor& most = there_[&l];
      most = most.defined() ? most.maximum(amax) : amax;
    }
  }
  models::Observer observer() {
    return [this](const models::Linear& l, const at::Tensor& input) { observe(l, input); };
  }

  std::vector<float> values() {
    for (const auto& [l, most] : there_) {
      largest_.at(l) = most.item<float>();
      check(std::isfinite(largest_.at(l)), "calibrate",
            "input of {}: expected finite values, found {}", linear_name(l->weight.parts.front()),
            largest_.at(l));
    }
    std::vector<float> out;
    for (const models::Linear* l : linears_) out.push_back(largest_.at(l));
    return out;
  }

 private:
  std::vector<const models::Linear*> linears_;
  std::map<const models::Linear*, float> largest_;
  // Maxima of a GPU's inputs stay there until the end; a NaN survives in them.
  std::map<const models::Linear*, at::Tensor> there_;
};

// The same of the keys and values of each layer, where they lie; a NaN survives.
class MostCached {
 public:
  explicit MostCached(std::size_t layers) : keys_(layers), values_(layers) {}

  models::CacheObserver observer() {
    return [this](std::size_t layer, const at::Tensor& keys, const at::Tensor& values) {
      add(keys_[layer], keys);
      add(values_[layer], values);
    };
  }
  std::vector<CacheMaxima> maxima() const {
    std::vector<CacheMaxima> all;
    for (std::size_t i = 0; i < keys_.size(); ++i) all.push_back({of(keys_[i]), of(values_[i])});
    return all;
  }

 private:
  static void add(at::Tensor& most, const at::Tensor& x) {
    const at::Tensor amax = x.abs().max();
    most = most.defined() ? most.maximum(amax) : amax;
  }
  static float of(const at::Tensor& most) { return most.defined() ? most.item<float>() : 0; }

  std::vector<at::Tensor> keys_, values_;
};

}  // namespace

std::vector<float> calibrate(const models::Model& model, const std::vector<models::Tokens>& batches,
                             const std::function<void(std::size_t done)>& progress,
                             std::vector<CacheMaxima>* cache) {
  const at::NoGradGuard no_grad;
  Maxima maxima(model);
  MostCached cached(model.layers.size());
  const models::CacheObserver see = cache ? cached.observer() : models::CacheObserver();
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const at::Tensor hidden = models::forward(model, batches[i], maxima.observer(), see);
    if (model.head) maxima.observe(*model.head, hidden);
    if (progress) progress(i + 1);
  }
  if (cache) *cache = cached.maxima();
  return maxima.values();
}

std::vector<float> calibrate(const checkpoint::Checkpoint& source, models::Model& model,
                             const std::vector<models::Tokens>& batches,
                             const std::function<void(std::size_t done)>& progress,
                             std::vector<CacheMaxima>* cache) {
  const at::NoGradGuard no_grad;
  Maxima maxima(model);
  MostCached cached(model.layers.size());
  const models::CacheObserver see = cache ? cached.observer() : models::CacheObserver();
  std::vector<at::Tensor> streams;
  {
    const Loaded embedding(source, model, {&model.embedding});
    for (const models::Tokens& batch : batches) streams.push_back(models::embed(model, batch));
  }
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const Loaded layer(source, model, models::parameters(model.layers[i]));
    // The disk reads the next layer meanwhile.
    if (i + 1 < model.layers.size())
      for (const models::Parameter* p : models::parameters(model.layers[i + 1]))
        for (const models::Part& part : p->parts)
          checkpoint::prefetch(source, source.at(part.name));
    for (std::size_t b = 0; b < batches.size(); ++b)
      streams[b] = models::forward_layer(model, i, batches[b], streams[b], maxima.observer(), see);
    if (progress) progress(i + 1);
  }
  const Loaded norm(source, model, {&model.final_norm});
  if (model.head)
    for (const at::Tensor& stream : streams)
      maxima.observe(*model.head, models::final_norm(model, stream));
  if (cache) *cache = cached.maxima();
  return maxima.values();
}

std::vector<UnreachedExperts> lend_maxima(const models::Model& model,
                                          std::vector<float>& input_amax) {
  const auto linears = models::linears(model);
  check(input_amax.size() == linears.size(), "calibrate", "expected {} maxima, found {}",
        linears.size(), input_amax.size());
  std::map<const models::Linear*, float*> amax_of;
  for (std::size_t i = 0; i < linears.size(); ++i) amax_of[linears[i]] = &input_amax[i];
  std::vector<UnreachedExperts> all;
  for (const models::Layer& layer : model.layers) {
    if (!layer.experts) continue;
    const auto& routed = layer.experts->routed;
    UnreachedExperts found{routed.front().gate_up.layer, {}, routed.size()};
    for (const auto which : {&models::Mlp::gate_up, &models::Mlp::down}) {
      float most = 0;
      for (const models::Mlp& expert : routed) most = std::max(most, *amax_of.at(&(expert.*which)));
      check(most > 0, "calibrate",
            "layer {}: calibration reached none of its {} experts with a value other than 0; give "
            "it more data",
            found.layer, found.of);
      for (std::size_t e = 0; e < routed.size(); ++e) {
        float& amax = *amax_of.at(&(routed[e].*which));
        if (amax > 0) continue;
        amax = most;
        if (std::find(found.experts.begin(), found.experts.end(), e) == found.experts.end())
          found.experts.push_back(e);
      }
    }
    std::sort(found.experts.begin(), found.experts.end());
    if (!found.experts.empty()) all.push_back(std::move(found));
  }
  return all;
}

std::string to_text(const std::vector<UnreachedExperts>& unreached) {
  std::string text;
  for (const UnreachedExperts& u : unreached)
    text += fmt::format("{}{} of {} experts in layer {} ({})", text.empty() ? "" : "; ",
                        u.experts.size(), u.of, u.layer, fmt::join(u.experts, ", "));
  return text;
}

}  // namespace qad::quantize
