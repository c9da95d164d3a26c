// The plain way, and the same recorded.
#include "distill/micro_step.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>

#include "core/error.h"

namespace qad::distill {
namespace {

// Steps done plainly first: libraries choose kernels and make workspaces, tables and counters come
// into being. A second shows what the first one's end left.
constexpr int kPlainSteps = 2;

bool equal_documents(const models::Tokens& t) {
  return (t.cu_seqlens.numel() - 1) * t.longest == t.ids.numel();
}

}  // namespace

Sums::Sums(at::Device device)
    : loss(at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(device))),
      kl(loss.clone()),
      ce(loss.clone()) {}

void Sums::add(const ops::HeadOutputs& out) {
  loss.add_(out.loss.detach());
  if (out.kl.defined()) kl.add_(out.kl.sum(at::kDouble));
  ce.add_(out.ce.sum(at::kDouble));
}

void Sums::clear() {
  for (at::Tensor* t : {&loss, &kl, &ce}) t->zero_();
}

ops::HeadOutputs head_of(const models::Model& student, const Teacher& teacher,
                         const TrainConfig& config, const data::Batch& batch,
                         const at::Tensor& teacher_hidden) {
  const at::Tensor hidden = models::head_input(student, models::forward(student, batch.tokens));
  return ops::head_loss({hidden, student.head_weight(), teacher_hidden, teacher.head_weight(),
                         batch.labels, batch.weights},
                        config.loss, 0, config.bf16_logits && at::GradMode::is_enabled());
}

MicroStep::MicroStep(models::Model& student, const Teacher& teacher, const TrainConfig& config)
    : student_(student),
      teacher_(teacher),
      config_(config),
      sums_(student.placement.device),
      records_(config.cuda_graphs && !student.placement.device.is_cpu()) {}

void MicroStep::begin(const std::vector<data::Batch>& batches) {
  sums_.clear();
  first_ = true;
  replays_ = false;
  if (!records_) return;
  if (plain_steps_ < kPlainSteps) {
    ++plain_steps_;
    return;
  }
  // Sequences at the end of the data may be shorter; such a step is done plainly.
  const std::int64_t usual = config_.micro_batch() * config_.seq_len;
  std::int64_t most = 0;
  bool equal = true;
  for (const data::Batch& b : batches) {
    if (b.tokens.ids.numel() != usual) return;
    equal = equal && equal_documents(b.tokens) && b.tokens.longest == batches[0].tokens.longest;
    most = std::max(most, b.tokens.cu_seqlens.numel() - 1);
  }
  if (inputs_) {
    const models::Tokens& t = inputs_->batch.tokens;
    const bool fits = inputs_->equal ? equal && most == t.cu_seqlens.numel() - 1
                                     : most <= t.cu_seqlens.numel() - 1;
    if (!fits) forget();
  }
  if (!inputs_) {
    data::Batch b = batches.front().to(student_.placement.device);
    if (!equal) {
      // Room for as many documents again; more than `usual / longest`, so that nobody takes them
      // for equal ones.
      const auto room = static_cast<std::int64_t>(
          std::bit_ceil(static_cast<std::uint64_t>(std::max(most, config_.micro_batch()) + 1)));
      b.tokens.cu_seqlens = at::full({room + 1}, usual, b.tokens.cu_seqlens.options());
      b.tokens.longest = config_.seq_len;
    }
    // Tables are held: longer documents elsewhere would put others in their place.
    models::reserve_positions(student_, b.tokens.longest);
    held_ = teacher_.tables(b.tokens.longest);
    held_.insert(held_.end(), {student_.rope.cos, student_.rope.sin});
    inputs_ = Inputs{std::move(b), {}, equal};
  }
  replays_ = true;
}

void MicroStep::plainly(const data::Batch& batch, const at::Tensor& teacher_hidden) {
  const ops::HeadOutputs out =
      head_of(student_, teacher_, config_, batch,
              teacher_hidden.defined() ? teacher_hidden : teacher_.compute(batch.tokens));
  out.loss.backward();
  sums_.add(out);
}

void MicroStep::load(const data::Batch& batch, const at::Tensor& teacher_hidden) {
  models::check_tokens(student_, batch.tokens);
  const data::Batch& to = inputs_->batch;
  to.tokens.ids.copy_(batch.tokens.ids);
  to.tokens.positions.copy_(batch.tokens.positions);
  to.labels.copy_(batch.labels);
  to.weights.copy_(batch.weights);
  const std::int64_t starts = batch.tokens.cu_seqlens.numel();
  to.tokens.cu_seqlens.narrow(0, 0, starts).copy_(batch.tokens.cu_seqlens);
  to.tokens.cu_seqlens.slice(0, starts).fill_(batch.tokens.ids.numel());
  if (!teacher_hidden.defined()) return;
  if (!inputs_->teacher_hidden.defined()) inputs_->teacher_hidden = at::empty_like(teacher_hidden);
  inputs_->teacher_hidden.copy_(teacher_hidden);
}

void MicroStep::run(const data::Batch& batch, const at::Tensor& teacher_hidden) {
  const bool first = std::exchange(first_, false);
  if (!replays_) return plainly(batch.to(student_.placement.device), teacher_hidden);
  load(batch, teacher_hidden);
  const auto parameters = models::parameters(student_);
  std::optional<models::ModelRecording>& graph = first ? first_graph_ : next_graph_;
  if (!graph) graph.emplace(student_, [&] { plainly(inputs_->batch, inputs_->teacher_hidden); });
  graph->replay();
  if (first && gradients_.empty())
    for (const models::Parameter* p : parameters) gradients_.push_back(p->value.grad());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    at::Tensor& gradient = parameters[i]->value.mutable_grad();
    if (first) gradient = gradients_[i];
    check(gradient.is_same(gradients_[i]), "train",
          "{}: a recorded backward pass put its gradient elsewhere; set train.cuda_graphs: false",
          parameters[i]->parts.front().name);
  }
}

void MicroStep::forget() {
  first_graph_.reset();
  next_graph_.reset();
  inputs_.reset();
  gradients_.clear();
  held_.clear();
}

void MicroStep::stop_recording() {
  forget();
  records_ = false;
}

}  // namespace qad::distill
