// One node of PyTorch's graph for every operator: it keeps what was saved and calls the backward
// function that the operator gave.
#include "ops/autograd.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace qad::ops {
namespace {

namespace ag = torch::autograd;

// Used by one thread at a time, as all of the trainer's graphs are.
struct Recorded : ag::Node {
  const char* operation;
  std::vector<ag::SavedVariable> saved;
  BackwardOfSeveral backward;
  bool last = false;  // nobody will ask again

  ag::variable_list apply(ag::variable_list&& grads) override {
    if (std::none_of(grads.begin(), grads.end(), [](const at::Tensor& g) { return g.defined(); }))
      return ag::variable_list(num_outputs());
    check(!at::GradMode::is_enabled(), operation, "second derivatives are not supported");
    check(
        backward != nullptr, operation,
        "backward ran before on this result, and what it needs is gone; compute the result again");
    const at::AutoDispatchBelowADInplaceOrView guard;
    Tensors tensors;
    for (const ag::SavedVariable& s : saved) tensors.push_back(s.unpack(shared_from_this()));
    if (!last) return backward(grads, std::move(tensors));
    // Given up before it is used: a gradient that was saved then needs no copy, and should the
    // function throw, nobody calls it again on nothing.
    saved.clear();
    return std::exchange(backward, nullptr)(grads, std::move(tensors));
  }

  void will_release_variables() override { last = true; }
  std::string name() const override { return fmt::format("qad::{}", operation); }
  void release_variables() override {
    saved.clear();
    backward = nullptr;
  }
};

}  // namespace

bool recording(std::initializer_list<const at::Tensor*> inputs) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor* t : inputs)
    if (t->defined() && t->requires_grad()) return true;
  return false;
}

void record(const char* operation, const Tensors& outputs, const Tensors& inputs,
            const Tensors& saved, BackwardOfSeveral backward) {
  const std::shared_ptr<Recorded> node(new Recorded, ag::deleteNode);
  for (const at::Tensor& t : inputs)
    node->add_next_edge(t.defined() ? ag::impl::gradient_edge(t) : ag::Edge());
  node->operation = operation;
  node->backward = std::move(backward);
  for (const at::Tensor& output : outputs)
    ag::impl::set_gradient_edge(output, {node, node->add_input_metadata(output)});
  // Now that outputs lead to the node: PyTorch then keeps their values without the way back, which
  // would be a cycle that nothing frees.
  for (const at::Tensor& t : saved)
    node->saved.emplace_back(
        t, std::any_of(outputs.begin(), outputs.end(),
                       [&](const at::Tensor& output) { return t.is_same(output); }));
}

void record(const char* operation, const at::Tensor& output, const Tensors& inputs,
            const Tensors& saved, Backward backward) {
  record(operation, Tensors{output}, inputs, saved,
         [backward = std::move(backward)](const Tensors& grads, Tensors tensors) {
           return backward(grads[0], std::move(tensors));
         });
}

}  // namespace qad::ops
