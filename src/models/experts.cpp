// Rows are sorted by expert once; what is done to them then is one operator each for all experts.
#include "models/experts.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "core/error.h"
#include "ops/experts.h"

namespace qad::models {
namespace {

using Linears = std::vector<const Linear*>;

Linears linears_of(const Experts& m, Linear Mlp::*which) {
  Linears all;
  for (const Mlp& expert : m.routed) all.push_back(&(expert.*which));
  return all;
}

// The counters of these as one tensor, each being an element of it. When some are not yet, or were
// taken away to start anew, they become elements of a new one.
at::Tensor shared_counters(const Linears& linears, const at::TensorOptions& options) {
  const at::Tensor fresh = at::zeros({static_cast<std::int64_t>(linears.size())}, options);
  at::Tensor all = linears.front()->quant->clipped;
  if (all.defined() && all.storage().nbytes() == fresh.nbytes())
    all = all.as_strided(fresh.sizes(), {1}, 0);
  else
    all = fresh;
  const auto* first = all.const_data_ptr<std::int64_t>();
  bool together = true;
  for (std::size_t e = 0; e < linears.size(); ++e) {
    const at::Tensor& own = linears[e]->quant->clipped;
    together &= own.defined() && own.const_data_ptr<std::int64_t>() == first + e;
  }
  if (together) return all;
  for (std::size_t e = 0; e < linears.size(); ++e) {
    at::Tensor& own = linears[e]->quant->clipped;
    const at::Tensor place = fresh.select(0, static_cast<std::int64_t>(e));
    if (own.defined()) place.copy_(own);
    own = place;
  }
  return fresh;
}

// How `rows` inputs of an expert's linear are quantised; absent: not at all.
std::optional<ops::GroupQuantizer> quantizer(const Linears& linears, const at::Tensor& offsets,
                                             std::int64_t rows, bool again) {
  const Linear& one = *linears.front();
  const auto quantised = [](const Linear& l) { return l.quant && l.quant->input_global; };
  for (const Linear* l : linears)
    check(quantised(*l) == quantised(one) &&
              (!quantised(one) || (l->quant->input_rule == one.quant->input_rule &&
                                   l->quant->precision == one.quant->precision)),
          "forward", "layer {}: expected the inputs of all experts quantised alike", one.layer);
  if (!quantised(one)) return std::nullopt;
  ops::GroupQuantizer q{{}, one.quant->input_rule, {}};
  for (const Linear* l : linears) q.globals.push_back(*l->quant->input_global);
  const auto options = offsets.options().dtype(at::kLong);
  if (again) {
    q.clipped = at::zeros({static_cast<std::int64_t>(linears.size())}, options);  // for nobody
    return q;
  }
  one.quant->seen += rows * one.weight.value.size(1);  // of all: whose they are a GPU knows
  q.clipped = shared_counters(linears, options);
  return q;
}

void observe(const Observer& observer, const Linears& linears, const at::Tensor& x,
             const at::Tensor& offsets) {
  const at::Tensor here = offsets.cpu();
  const auto* offset = here.const_data_ptr<std::int32_t>();
  for (std::size_t e = 0; e < linears.size(); ++e)
    if (const std::int64_t rows = offset[e + 1] - offset[e]; rows > 0)
      observer(*linears[e], x.narrow(0, offset[e], rows));
}

// make(quantizer or null) gives the rows that these linears read, quantised in the same pass.
template <class Make>
at::Tensor input_of(const Linears& linears, const ops::ExpertOrder& order, const Observer& observer,
                    bool again, Make make) {
  if (observer) observe(observer, linears, make(nullptr), order.offsets);
  const auto q = quantizer(linears, order.offsets, order.choices.numel(), again);
  if (q && linears.front()->quant->precision == ops::Precision::fp8)
    return ops::fake_quantize_fp8(make(nullptr), q->globals, order.offsets, q->clipped);
  return make(q ? &*q : nullptr);
}

at::Tensor apply(const Linears& linears, const at::Tensor& x, const at::Tensor& offsets) {
  if (!linears.front()->weight.packed || !x.is_cpu()) {
    std::vector<at::Tensor> weights;
    for (const Linear* l : linears)
      weights.push_back(l->weight.packed ? ops::unpacked(*l->weight.packed, x.scalar_type())
                                         : l->weight.value);
    return ops::grouped_linear(x, weights, offsets);
  }
  const at::Tensor y = at::empty({x.size(0), linears.front()->weight.value.size(0)}, x.options());
  const auto* offset = offsets.const_data_ptr<std::int32_t>();
  for (std::size_t e = 0; e < linears.size(); ++e)
    if (const std::int64_t rows = offset[e + 1] - offset[e]; rows > 0)
      y.narrow(0, offset[e], rows)
          .copy_(ops::linear(x.narrow(0, offset[e], rows), *linears[e]->weight.packed));
  return y;
}

}  // namespace

at::Tensor run_experts(const Experts& m, const at::Tensor& x, const at::Tensor& beside,
                       const Observer& observer, bool again) {
  const ExpertsConfig& c = m.config;
  const Linears up = linears_of(m, &Mlp::gate_up), down = linears_of(m, &Mlp::down);
  const ops::Routes routes = ops::route(
      x, m.router.value, m.correction ? m.correction->value : at::Tensor(),
      {c.chosen, c.groups, c.chosen_groups, c.normalized, c.scale, c.scores == Scores::softmax});
  const ops::ExpertOrder order = ops::sort_by_expert(routes.experts, c.experts);
  const auto input = [&](const Linears& linears, auto make) {
    return input_of(linears, order, observer, again, make);
  };
  const at::Tensor rows =
      input(up, [&](const ops::GroupQuantizer* q) { return ops::gather_rows(x, order, q); });
  const at::Tensor first = apply(up, rows, order.offsets);
  const at::Tensor activated = input(down, [&](const ops::GroupQuantizer* q) {
    return c.activation == Activation::relu2 ? ops::relu2(first, order.offsets, q)
                                             : ops::swiglu(first, order.offsets, q);
  });
  return ops::combine_rows(apply(down, activated, order.offsets), routes.weights, order, beside);
}

}  // namespace qad::models
