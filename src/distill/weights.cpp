// Gradients to moments to masters to values.
#include "distill/weights.h"

#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "distill/learned_scales.h"
#include "ops/ship.h"

namespace qad::distill {

Weights::Weights(models::Model& student, std::vector<at::Tensor> masters, nvfp4::GlobalScale rule,
                 const TrainConfig& config)
    : config_(config), parameters_(models::parameters(student)), rule_(rule) {
  check(masters.size() == parameters_.size(), "train", "expected {} master tensors, found {}",
        parameters_.size(), masters.size());
  quants_.resize(parameters_.size());
  const auto linears = models::linears(student);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const models::Parameter& p = *parameters_[i];
    check(
        masters[i].defined() && masters[i].is_contiguous() && masters[i].sizes() == p.value.sizes(),
        "train", "{}: expected a contiguous master of the value's shape", p.parts.front().name);
    const auto owner = std::find_if(linears.begin(), linears.end(),
                                    [&](const models::Linear* l) { return &l->weight == &p; });
    if (owner != linears.end()) quants_[i] = (*owner)->quant.get();
    masters_.push_back(held(i, masters[i]));
    masters[i].reset();  // a model's weights twice are much memory
  }
  // Quantised ones first, so that their magnitudes follow each other.
  for (const bool quantised : {true, false})
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      if ((quants_[i] != nullptr) == quantised) order_.push_back(i);
  globals_ = at::zeros({static_cast<std::int64_t>(parameters_.size())},
                       masters_.front().high.options().dtype(at::kFloat));
  set_weight_globals(weight_globals());
  steps_.resize(parameters_.size());
  for (std::size_t i = 0; i < quants_.size() && config.learn_scales; ++i) {
    if (quants_[i] == nullptr || quants_[i]->precision == ops::Precision::fp8) continue;
    const std::string& name = parameters_[i]->parts.front().name;
    const at::Tensor& scales = quants_[i]->weight_scales;
    check(scales.defined(), "train",
          "learn_scales: {}: expected block scales of its own (quantize::fix_scales)", name);
    const at::Tensor d = step_sizes(scales, quants_[i]->weight_global);
    steps_[i] = {d, at::zeros_like(d), at::zeros_like(d)};
  }
  check(!config.learn_scales ||
            std::ranges::any_of(steps_, [](const Steps& s) { return s.d.defined(); }),
        "train", "learn_scales: no weight is NVFP4, and others have no block scales to learn");
  // A split master of more bits than BF16 may have been rounded to another side than the value.
  if (config.split_masters) publish();
}

ops::Master Weights::held(std::size_t i, const at::Tensor& weights) {
  const models::Parameter& p = *parameters_[i];
  if (p.constant) return ops::Master(p.value.detach());
  ops::Master master = config_.split_masters ? ops::split_master(weights.detach())
                                             : ops::Master(weights.to(at::kFloat));
  check(master.high.data_ptr() != p.value.data_ptr(), "train",
        "{}: the master must be a copy, since the value is overwritten by its rounding",
        p.parts.front().name);
  if (master.split() && quants_[i] == nullptr && p.value.scalar_type() == at::kBFloat16) {
    const at::Tensor value = p.value.detach();  // the same memory, without its gradient
    value.copy_(master.high);
    master.high = value;
  }
  return master;
}

std::vector<std::string> Weights::names() const {
  std::vector<std::string> names;
  for (const models::Parameter* p : parameters_) names.push_back(p->parts.front().name);
  return names;
}

void Weights::require_gradients(bool on) {
  for (models::Parameter* p : parameters_) {
    if (p->constant) continue;
    p->value.set_requires_grad(on);
    p->value.mutable_grad().reset();
    if (on && !config_.bf16_gradients) p->value.set_grad_dtype(at::kFloat);
  }
}

at::Tensor Weights::gradient_norm() const {
  std::vector<at::Tensor> gradients;
  for (const models::Parameter* p : parameters_)
    if (p->value.grad().defined()) gradients.push_back(p->value.grad().contiguous());
  return ops::gradient_norm(gradients);
}

void Weights::update(std::int64_t step, double learning_rate, const at::Tensor& factor) {
  make_moments();
  std::vector<ops::AdamWItem> items;
  std::vector<std::size_t> updated;
  for (const std::size_t i : order_) {
    at::Tensor& gradient = parameters_[i]->value.mutable_grad();
    if (!gradient.defined()) continue;
    const Moments& x = moments_[i];
    const bool matrix = masters_[i].high.dim() > 1;  // norms and biases do not decay
    items.push_back({masters_[i], gradient.contiguous(), x.m, x.v, x.m8, x.v8,
                     matrix ? config_.weight_decay : 0, mix64(config_.seed ^ mix64(i))});
    updated.push_back(i);
  }
  if (items.empty()) return;
  update_steps(updated, step, learning_rate, factor);
  // Dropped, not zeroed: autograd then moves the next gradient in instead of adding to zeros.
  for (const std::size_t i : updated) parameters_[i]->value.mutable_grad().reset();
  const at::Tensor amax = ops::adamw_(
      {learning_rate, config_.beta1, config_.beta2, config_.epsilon, 0, step, 0}, items, factor);
  items.clear();
  publish(updated, amax);
}

void Weights::update_steps(const std::vector<std::size_t>& which, std::int64_t step,
                           double learning_rate, const at::Tensor& factor) {
  if (config_.scales_rate == 0) return;  // they stay
  std::vector<ops::AdamWItem> items;
  for (const std::size_t i : which) {
    const Steps& s = steps_[i];
    if (!s.d.defined()) continue;
    const models::LinearQuant& quant = *quants_[i];
    items.push_back({s.d,
                     step_gradient(parameters_[i]->value.grad(), masters_[i].high,
                                   quant.weight_scales, quant.weight_global),
                     s.m,
                     s.v,
                     {},
                     {}});
  }
  if (items.empty()) return;
  learning_rate *= config_.scales_rate;
  ops::adamw_({learning_rate, config_.beta1, config_.beta2, config_.epsilon, 0, step, 0}, items,
              factor);
}

void Weights::make_moments() {
  if (!moments_.empty()) return;
  for (const ops::Master& held : masters_) {
    const at::Tensor& master = held.high;
    const auto zeros = [&](at::ScalarType type) {
      return at::zeros(master.sizes(), master.options().dtype(type));
    };
    if (config_.optimizer_states == StateType::int8)
      moments_.push_back({{}, {}, ops::zero_moment8(master), ops::zero_moment8(master)});
    else if (config_.optimizer_states == StateType::bf16)
      moments_.push_back({zeros(at::kBFloat16), zeros(at::kBFloat16), {}, {}});
    else
      moments_.push_back({zeros(at::kFloat), zeros(at::kFloat), {}, {}});
  }
}

std::vector<std::pair<std::string, at::Tensor>> Weights::state() {
  make_moments();
  auto all = master_state();
  const std::vector<std::string> names = this->names();
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Moments& x = moments_[i];
    const bool small = x.m8.codes.defined();
    all.emplace_back("adamw_m/" + names[i], small ? x.m8.codes : x.m);
    all.emplace_back("adamw_v/" + names[i], small ? x.v8.codes : x.v);
    if (!small) continue;
    all.emplace_back("adamw_m_scales/" + names[i], x.m8.scales);
    all.emplace_back("adamw_v_scales/" + names[i], x.v8.scales);
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (!steps_[i].d.defined()) continue;
    all.emplace_back("adamw_m_step_sizes/" + names[i], steps_[i].m);
    all.emplace_back("adamw_v_step_sizes/" + names[i], steps_[i].v);
  }
  return all;
}

std::vector<std::pair<std::string, at::Tensor>> Weights::master_state() const {
  std::vector<std::pair<std::string, at::Tensor>> all;
  const std::vector<std::string> names = this->names();
  for (std::size_t i = 0; i < names.size(); ++i) {
    const ops::Master& master = masters_[i];
    all.emplace_back((master.split() ? "master_high/" : "master/") + names[i], master.high);
    if (master.split()) all.emplace_back("master_low/" + names[i], master.low);
    if (steps_[i].d.defined())
      all.emplace_back("step_sizes/" + names[i], steps_[i].d);
    else if (quants_[i] != nullptr && quants_[i]->weight_scales.defined())
      all.emplace_back("weight_scales/" + names[i], quants_[i]->weight_scales);
  }
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
  std::vector<float> all(quants_.size());
  for (std::size_t i = 0; i < quants_.size(); ++i)
    if (quants_[i] != nullptr) {
      check(next != globals.end(), "train", "expected a global scale for each quantised linear");
      all[i] = quants_[i]->weight_global = *next++;
    }
  check(next == globals.end(), "train", "expected a global scale for each quantised linear");
  globals_.copy_(at::tensor(all));
}

void Weights::sync() {
  std::vector<at::Tensor> all{globals_};
  for (const Magnitudes& m : magnitudes_) all.push_back(m.values);
  const at::Tensor seen = at::cat(all).to(at::kCPU);
  const float *here = seen.const_data_ptr<float>(), *most = here + quants_.size();
  for (const Magnitudes& m : magnitudes_)
    for (const std::size_t i : m.parameters) {
      check(std::isfinite(*most), "train",
            "{}: expected finite weights that {} can hold, found {} as the largest; try a lower "
            "learning rate",
            parameters_[i]->parts.front().name,
            quants_[i] != nullptr ? ops::name_of(quants_[i]->precision) : "BF16", *most);
      ++most;
    }
  for (std::size_t i = 0; i < quants_.size(); ++i)
    if (quants_[i] != nullptr) quants_[i]->weight_global = here[i];
}

void Weights::publish() {
  publish(order_, {});
  sync();
}

void Weights::publish(const std::vector<std::size_t>& which, const at::Tensor& amax) {
  const at::NoGradGuard guard;
  magnitudes_.clear();
  if (amax.defined()) magnitudes_.push_back({amax, which});
  std::vector<ops::ShipItem> shipped;
  std::vector<std::size_t> quantised;
  std::vector<at::Tensor> values, rounded;
  for (const std::size_t i : which) {
    const at::Tensor &value = parameters_[i]->value, &master = masters_[i].high;
    if (quants_[i] != nullptr) {
      models::LinearQuant& quant = *quants_[i];
      if (steps_[i].d.defined())
        encode_step_sizes(steps_[i].d, quant.weight_global, quant.weight_scales);
      shipped.push_back({master, value, globals_.select(0, static_cast<std::int64_t>(i)),
                         quant.weight_rule, quant.weight_scales, quant.precision});
      quantised.push_back(i);
    } else if (master.data_ptr() != value.data_ptr()) {
      values.push_back(value);
      rounded.push_back(value.is_cpu() ? master.to(at::kBFloat16) : master);
    }
  }
  if (!values.empty()) at::_foreach_copy_(values, rounded);  // which rounds to BF16 itself
  if (shipped.empty()) return;
  const auto count = static_cast<std::int64_t>(shipped.size());
  magnitudes_.push_back(
      {ops::ship_(shipped, amax.defined() ? amax.narrow(0, 0, count) : amax, rule_),
       std::move(quantised)});
}

}  // namespace qad::distill
