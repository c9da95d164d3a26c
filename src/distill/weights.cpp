// Gradients to moments to masters to values.
#include "distill/weights.h"

#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "distill/adamw.h"
#include "quantize/quantize.h"

namespace qad::distill {

Weights::Weights(models::Model& student, std::vector<at::Tensor> masters, nvfp4::GlobalScale rule)
    : parameters_(models::parameters(student)), masters_(std::move(masters)), rule_(rule) {
  check(masters_.size() == parameters_.size(), "train", "expected {} master tensors, found {}",
        parameters_.size(), masters_.size());
  quants_.resize(parameters_.size());
  const auto linears = models::linears(student);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const models::Parameter& p = *parameters_[i];
    check(masters_[i].defined() && masters_[i].scalar_type() == at::kFloat &&
              masters_[i].is_contiguous() && masters_[i].sizes() == p.value.sizes(),
          "train", "{}: expected a contiguous FP32 master of the value's shape",
          p.parts.front().name);
    check(masters_[i].data_ptr() != p.value.data_ptr(), "train",
          "{}: the master must be a copy, since the value is overwritten by its rounding",
          p.parts.front().name);
    const auto owner = std::find_if(linears.begin(), linears.end(),
                                    [&](const models::Linear* l) { return &l->weight == &p; });
    if (owner != linears.end()) quants_[i] = (*owner)->quant.get();
  }
}

std::vector<std::string> Weights::names() const {
  std::vector<std::string> names;
  for (const models::Parameter* p : parameters_) names.push_back(p->parts.front().name);
  return names;
}

void Weights::require_gradients(bool on) {
  for (models::Parameter* p : parameters_) {
    p->value.set_requires_grad(on);
    p->value.mutable_grad().reset();
  }
}

double Weights::gradient_norm() const {
  double sum = 0;
  for (const models::Parameter* p : parameters_) {
    const at::Tensor& g = p->value.grad();
    if (!g.defined()) continue;
    const at::Tensor whole = g.contiguous();
    sum += sum_of_squares({whole.const_data_ptr<float>(), static_cast<std::size_t>(g.numel())});
  }
  return std::sqrt(sum);
}

void Weights::update(const TrainConfig& config, std::int64_t step, double learning_rate,
                     double scale) {
  state();
  AdamW a{learning_rate, config.beta1, config.beta2, config.epsilon, 0, step, scale};
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor& gradient = parameters_[i]->value.mutable_grad();
    if (!gradient.defined()) continue;
    const at::Tensor whole = gradient.contiguous();
    a.weight_decay = masters_[i].dim() > 1 ? config.weight_decay : 0;  // not on norms and biases
    adamw_update(a, whole.const_data_ptr<float>(), m_[i].data_ptr<float>(), v_[i].data_ptr<float>(),
                 masters_[i].data_ptr<float>(), masters_[i].numel());
    // Dropped, not zeroed: autograd then moves the next gradient in instead of adding to zeros.
    gradient.reset();
    publish(i);
  }
}

std::vector<std::pair<std::string, at::Tensor>> Weights::state() {
  if (m_.empty())
    for (const at::Tensor& master : masters_) {
      m_.push_back(at::zeros_like(master));
      v_.push_back(at::zeros_like(master));
    }
  auto all = master_state();
  const std::vector<std::string> names = this->names();
  for (std::size_t i = 0; i < names.size(); ++i) {
    all.emplace_back("adamw_m/" + names[i], m_[i]);
    all.emplace_back("adamw_v/" + names[i], v_[i]);
  }
  return all;
}

std::vector<std::pair<std::string, at::Tensor>> Weights::master_state() const {
  std::vector<std::pair<std::string, at::Tensor>> all;
  const std::vector<std::string> names = this->names();
  for (std::size_t i = 0; i < names.size(); ++i)
    all.emplace_back("master/" + names[i], masters_[i]);
  return all;
}

std::vector<float> Weights::weight_globals() const {
  std::vector<float> globals;
  for (const models::LinearQuant* q : quants_)
    if (q != nullptr) globals.push_back(q->weight_global);
  return globals;
}

void Weights::set_weight_globals(const std::vector<float>& globals) {
  auto next = globals.begin();
  for (models::LinearQuant* q : quants_)
    if (q != nullptr) {
      check(next != globals.end(), "train", "expected a global scale for each quantised linear");
      q->weight_global = *next++;
    }
  check(next == globals.end(), "train", "expected a global scale for each quantised linear");
}

void Weights::publish() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) publish(i);
}

void Weights::publish(std::size_t i) {
  const at::NoGradGuard guard;
  models::Parameter& p = *parameters_[i];
  quantize::shipped_value(p.parts.front().name, masters_[i], quants_[i], rule_, p.value);
}

}  // namespace qad::distill
