// One node for the whole computation, whose backward function makes the graph that was not kept and
// runs PyTorch's engine on it, inside the run of the engine that called it.
#include "ops/recompute.h"

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <utility>

namespace qad::ops {
namespace {

namespace ag = torch::autograd;

// The same values, without the way that led to them. A result may be an input as it is, and is then
// a tensor of its own all the same.
Tensors cut(const Tensors& inputs, bool recorded) {
  Tensors out;
  for (const at::Tensor& t : inputs) {
    out.push_back(t.defined() ? t.variable_data() : t);
    if (t.defined() && recorded) out.back().set_requires_grad(t.requires_grad());
  }
  return out;
}

// The gradients of `inputs`; those of parameters go where they belong.
Tensors backward_again(const Make& make, const Tensors& grads, Tensors inputs) {
  // A backward function runs below autograd; this one is to be seen by it.
  c10::impl::LocalDispatchKeySet keys = c10::impl::tls_local_dispatch_key_set();
  keys.excluded_ = keys.excluded_ - c10::autograd_dispatch_keyset_with_ADInplaceOrView;
  const c10::impl::ForceDispatchKeyGuard guard(keys);

  const Tensors leaves = cut(inputs, true);
  inputs.clear();
  // The results themselves are gone before the way back: it keeps what it needs.
  ag::edge_list roots;
  Tensors at_roots;
  {
    const at::AutoGradMode recording(true);
    const Tensors results = make(leaves, true);
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (!grads[i].defined() || !results[i].requires_grad()) continue;
      roots.push_back(ag::impl::gradient_edge(results[i]));
      at_roots.push_back(grads[i]);
    }
  }
  if (!roots.empty()) ag::Engine::get_default_engine().execute(roots, at_roots, false, false, true);
  Tensors out;
  for (const at::Tensor& leaf : leaves)
    out.push_back(leaf.defined() ? std::exchange(leaf.mutable_grad(), {}) : leaf);
  return out;
}

}  // namespace

Tensors recomputed(const char* operation, const Tensors& inputs, const Tensors& parameters,
                   const Make& make) {
  Tensors from = inputs;
  from.insert(from.end(), parameters.begin(), parameters.end());
  if (!at::GradMode::is_enabled() ||
      std::none_of(from.begin(), from.end(),
                   [](const at::Tensor& t) { return t.defined() && t.requires_grad(); }))
    return make(inputs, false);
  const at::NoGradGuard guard;
  const Tensors results = make(cut(inputs, false), false);
  record(operation, results, from, inputs,
         [make, count = from.size()](const Tensors& grads, Tensors saved) {
           Tensors out = backward_again(make, grads, std::move(saved));
           out.resize(count);  // parameters have theirs
           return out;
         });
  return results;
}

}  // namespace qad::ops
