// Where channels can be scaled, and the folding of scales.
#include "core/error.h"
#include "quantize/transform.h"

namespace qad::quantize {
namespace {

using models::Linear;
using models::Parameter;

constexpr std::string_view kOperation = "transform";

Site site(Parameter& maker, std::vector<Linear*> readers) {
  Site s;
  s.name = linear_name(readers.front()->weight.parts.front());
  s.maker = &maker;
  s.channels = maker.value.size(0);
  s.readers = std::move(readers);
  return s;
}

Site after_norm(Parameter& norm, std::vector<Linear*> readers) {
  Site s = site(norm, std::move(readers));
  s.after_norm = true;
  return s;
}

// Through part `part` of `maker`.
Site between(Linear& maker, std::size_t part, Linear& reader) {
  Site s = site(maker.weight, {&reader});
  s.bias = maker.bias ? &*maker.bias : nullptr;
  for (std::size_t i = 0; i < part; ++i) s.first_row += maker.weight.parts[i].rows;
  s.channels = maker.weight.parts[part].rows;
  return s;
}

Site value_to_output(models::Attention& a) {
  Site s = between(a.qkv, 2, a.output);
  s.run = a.config.head_dim;
  s.repeat = a.config.heads / a.config.kv_heads;
  return s;
}

Site up_to_down(models::Mlp& m) {
  Site s = between(m.gate_up, m.gate_up.weight.parts.size() - 1, m.down);
  s.squared = m.config.activation == models::Activation::relu2;
  return s;
}

}  // namespace

at::Tensor Site::columns(const at::Tensor& of_channels) const {
  return of_channels.view({channels / run, 1, run}).expand({-1, repeat, -1}).reshape({-1});
}

std::vector<Site> sites(models::Layer& layer) {
  std::vector<Site> all;
  if (layer.attention) {
    all.push_back(after_norm(*layer.mixer_norm, {&layer.attention->qkv}));
    all.push_back(value_to_output(*layer.attention));
  }
  if (layer.mamba) {
    all.push_back(after_norm(*layer.mixer_norm, {&layer.mamba->in}));
    all.push_back(site(layer.mamba->norm, {&layer.mamba->out}));
  }
  if (layer.mlp) {
    all.push_back(after_norm(*layer.feed_forward_norm, {&layer.mlp->gate_up}));
    all.push_back(up_to_down(*layer.mlp));
  }
  if (layer.experts) {
    models::Experts& e = *layer.experts;
    std::vector<Linear*> readers;
    if (e.shared) readers.push_back(&e.shared->gate_up);
    for (models::Mlp& expert : e.routed) readers.push_back(&expert.gate_up);
    all.push_back(after_norm(*layer.feed_forward_norm, std::move(readers)));
    all.back().router = &e.router;
    if (e.shared) all.push_back(up_to_down(*e.shared));
    for (models::Mlp& expert : e.routed) all.push_back(up_to_down(expert));
  }
  return all;
}

void scale(const Site& site, const at::Tensor& s) {
  const at::NoGradGuard no_grad;
  check(site.maker->value.scalar_type() == at::kFloat, kOperation, "{}: expected a model in FP32",
        site.name);
  for (const Linear* reader : site.readers)
    check(!reader->quant, kOperation, "{}: expected an unquantised weight, found an NVFP4 one",
          linear_name(reader->weight.parts.front()));
  const at::Tensor divisor = site.squared ? s.sqrt() : s;
  const auto divide = [&](const Parameter& p) {
    const at::Tensor rows = p.value.narrow(0, site.first_row, site.channels);
    rows.div_(rows.dim() == 2 ? divisor.unsqueeze(1) : divisor);
  };
  divide(*site.maker);
  if (site.bias != nullptr) divide(*site.bias);
  const at::Tensor columns = site.columns(s);
  for (const Linear* reader : site.readers) reader->weight.value.mul_(columns);
  if (site.router != nullptr) site.router->value.mul_(columns);
}

}  // namespace qad::quantize
