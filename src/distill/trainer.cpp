// The loop: micro-batches, loss, backward, clip, update, validate, save.
#include "distill/trainer.h"

#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "core/console.h"
#include "core/error.h"
#include "distill/candidates.h"
#include "distill/micro_step.h"
#include "distill/resume.h"
#include "distill/state.h"
#include "distill/teacher.h"
#include "distill/weights.h"

namespace qad::distill {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What multiplies the gradients, as torch.nn.utils.clip_grad_norm_; NaN when something is not
// finite, so that nothing changes.
at::Tensor clip_factor(const at::Tensor& norm, const at::Tensor& loss, double most) {
  const at::Tensor factor =
      most > 0 ? norm.add(1e-6).reciprocal().mul(most).clamp_max(1) : at::ones_like(norm);
  const at::Tensor fine = norm.isfinite().logical_and(loss.isfinite());
  return factor.masked_fill(fine.logical_not(), std::numeric_limits<double>::quiet_NaN())
      .to(at::kFloat);
}

void check_config(const TrainConfig& c, const models::Model& student,
                  const models::Model* teacher) {
  check(c.steps >= 0 && c.batch_sequences > 0 && c.seq_len > 0, "train",
        "expected steps >= 0, batch_sequences > 0 and seq_len > 0, found {}, {} and {}", c.steps,
        c.batch_sequences, c.seq_len);
  // Conditions are such that NaN fails them.
  check(c.learning_rate > 0 && std::isfinite(c.learning_rate), "train",
        "learning_rate: expected a positive number, found {}", c.learning_rate);
  check(c.final_fraction >= 0 && c.final_fraction <= 1, "train",
        "final_fraction: expected 0 to 1, found {}", c.final_fraction);
  check(c.beta1 >= 0 && c.beta1 < 1, "train", "beta1: expected at least 0 and below 1, found {}",
        c.beta1);
  check(c.beta2 >= 0 && c.beta2 < 1, "train", "beta2: expected at least 0 and below 1, found {}",
        c.beta2);
  check(c.epsilon > 0 && std::isfinite(c.epsilon), "train",
        "epsilon: expected a positive number, found {}", c.epsilon);
  check(c.weight_decay >= 0 && std::isfinite(c.weight_decay), "train",
        "weight_decay: expected a number that is not negative, found {}", c.weight_decay);
  for_each_loss(c.loss, [](const char* name, double w) {
    check(w >= 0 && std::isfinite(w), "train",
          "loss.{}: expected a number that is not negative, found {}", name, w);
  });
  check(c.loss.temperature > 0, "train", "loss.temperature: expected a positive number, found {}",
        c.loss.temperature);
  check(c.loss.divergences() + c.loss.cross_entropy > 0, "train",
        "every loss has weight 0: nothing would be learnt; give one a weight");
  check(teacher != nullptr || c.loss.divergences() == 0, "train",
        "only cross_entropy can do without a teacher; give one, or set the other losses to 0");
  check(teacher == nullptr || teacher->config.vocabulary == student.config.vocabulary, "train",
        "the teacher has {} tokens, the student {}; distillation needs one vocabulary",
        teacher == nullptr ? 0 : teacher->config.vocabulary, student.config.vocabulary);
}

// The micro-batches of a step, on the CPU; their weights are such that losses add up to a mean.
struct StepData {
  std::int64_t first = 0;  // draw of the stream
  std::vector<data::Batch> batches;
  double normalizer = 1;  // target tokens
};

}  // namespace

struct Trainer::Impl {
  Impl(models::Model& student, std::vector<at::Tensor> masters, const models::Model* teacher,
       const quantize::Policy& policy, TrainConfig config)
      : student(student),
        config(std::move(config)),
        weights(student, std::move(masters), policy.global, this->config),
        teacher(teacher, this->config.cache_teacher, this->config.cache_folder),
        micro_step(student, this->teacher, this->config),
        candidates(this->config.state_folder, this->config.keep_best) {
    check_config(this->config, student, teacher);
    if (!this->config.state_folder.empty())
      identity = identity_of(this->config, student, weights.masters(), teacher, policy.global);
  }

  StepInfo step_once(const data::Stream& stream);
  StepData draw(const data::Stream& stream, std::int64_t step) const;
  [[noreturn]] void out_of_memory(const std::string& why) const;
  Validation validate(const std::vector<data::Batch>& batches);
  void save();
  void resume(const data::Stream& stream, const std::vector<data::Batch>& validation);
  fs::path resume_folder() const { return fs::path(config.state_folder) / "resume"; }

  models::Model& student;
  const TrainConfig config;
  Weights weights;
  Teacher teacher;
  MicroStep micro_step;
  Candidates candidates;
  std::optional<StepData> ahead;  // of the next step
  Json identity;                  // what a resume point must agree with
  TrainResult done;
};

void Trainer::Impl::out_of_memory(const std::string& why) const {
  const models::DeviceMemory memory = models::memory_of(student.placement.device);
  const std::int64_t micro = config.micro_batch();
  std::string advice;
  const auto suggest = [&](bool possible, const std::string& what) {
    if (possible) advice += (advice.empty() ? "try " : ", or ") + what;
  };
  suggest(micro > 1, fmt::format("train.micro_sequences: {}", (micro + 1) / 2));
  suggest(!config.split_masters, "train.masters: split");
  suggest(config.optimizer_states != StateType::int8, "train.optimizer_states: int8");
  suggest(!config.bf16_gradients, "train.gradients: bf16");
  suggest(advice.empty(), fmt::format("train.seq_len: {}", config.seq_len / 2));
  fail("train",
       "step {}: the GPU's memory is full: {} held of {}, {} free ({}); {} sequences of {} tokens "
       "a micro-batch; {}",
       done.steps_done + 1, human_bytes(memory.peak), human_bytes(memory.total),
       human_bytes(memory.free), why, micro, config.seq_len, advice);
}

StepData Trainer::Impl::draw(const data::Stream& stream, std::int64_t step) const {
  StepData data;
  data.first = step * config.batch_sequences;
  const std::int64_t micro = config.micro_batch();
  double targets = 0;
  for (std::int64_t at = 0; at < config.batch_sequences; at += micro) {
    data.batches.push_back(
        stream.batch(data.first + at, std::min(micro, config.batch_sequences - at)));
    targets += data.batches.back().targets;
  }
  // A batch of sequences without any target changes nothing but the step's count.
  data.normalizer = std::max(targets, 1.0);
  for (data::Batch& batch : data.batches) batch.weights.div_(data.normalizer);
  return data;
}

StepInfo Trainer::Impl::step_once(const data::Stream& stream) {
  const auto start = Clock::now();
  StepData data = ahead && ahead->first == done.steps_done * config.batch_sequences
                      ? std::move(*ahead)
                      : draw(stream, done.steps_done);
  ahead.reset();
  const std::int64_t first = data.first, micro = config.micro_batch();
  std::vector<data::Batch>& batches = data.batches;
  StepInfo info;
  info.step = done.steps_done + 1;
  info.steps = config.steps;
  info.learning_rate = learning_rate_at(config, done.steps_done);
  std::int64_t tokens = 0;
  micro_step.begin(batches);
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const data::Batch& batch = batches[i];
    const std::int64_t at = static_cast<std::int64_t>(i) * micro;
    micro_step.run(batch, teacher.cached()
                              ? teacher.hidden(stream, first + at,
                                               std::min(micro, config.batch_sequences - at), batch)
                              : at::Tensor());
    tokens += batch.tokens.ids.numel();
  }
  const Sums& sums = micro_step.sums();
  const at::Tensor norm = weights.gradient_norm().to(at::kDouble);
  weights.update(info.step, info.learning_rate, clip_factor(norm, sums.loss, config.clip_norm));
  // While a GPU is busy.
  if (info.step < config.steps) ahead = draw(stream, info.step);
  const at::Tensor seen = at::stack({sums.loss, sums.kl, sums.ce, norm}).to(at::kCPU);
  const double* const figures = seen.const_data_ptr<double>();
  info.loss = figures[0];
  info.kl = figures[1] / data.normalizer;
  info.ce = figures[2] / data.normalizer;
  info.gradient_norm = figures[3];
  check(std::isfinite(info.gradient_norm) && std::isfinite(info.loss), "train",
        "step {}: loss {} and gradient norm {}; training has diverged, try a lower learning rate",
        info.step, info.loss, info.gradient_norm);
  weights.sync();
  const double seconds = seconds_since(start);
  done.steps_done = info.step;
  done.tokens += tokens;
  info.tokens = done.tokens;
  info.tokens_per_second = static_cast<double>(tokens) / seconds;
  return info;
}

Validation Trainer::Impl::validate(const std::vector<data::Batch>& batches) {
  const at::NoGradGuard guard;
  Validation v;
  v.step = done.steps_done;
  double targets = 0;
  Sums sums(student.placement.device);
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const data::Batch batch = batches[i].to(student.placement.device);
    sums.add(head_of(student, teacher, config, batch, teacher.validation_hidden(i, batch)));
    targets += batch.targets;
  }
  v.loss = sums.loss.item<double>();
  v.kl = sums.kl.item<double>();
  v.ce = sums.ce.item<double>();
  check(targets > 0, "train", "the validation data has no token to predict");
  v.loss /= targets;
  v.kl /= targets;
  v.ce /= targets;
  check(std::isfinite(v.loss), "train", "step {}: the validation loss is {}; training has diverged",
        v.step, v.loss);
  done.validations.push_back(v);
  candidates.consider(v, weights);
  done.kept = candidates.best();
  return v;
}

void Trainer::Impl::save() {
  if (config.state_folder.empty()) return;
  Json about = {{"run", identity},
                {"step", done.steps_done},
                {"tokens", done.tokens},
                {"seconds", done.seconds},
                {"validations", to_json(done.validations)},
                {"kept", to_json(done.kept)}};
  about["weight_globals"] = weights.weight_globals();
  save_state(resume_folder(), about, weights.state());
  candidates.saved();
}

void Trainer::Impl::resume(const data::Stream& stream, const std::vector<data::Batch>& validation) {
  if (config.state_folder.empty()) return;
  identity["data"] = fmt::format("{:016x}", stream.fingerprint());
  identity["validation data"] = fmt::format("{:016x}", fingerprint(validation));
  if (!fs::exists(resume_folder())) return;
  const Json about = read_state_json(resume_folder());
  check_same_run(about.at("run"), identity, config.state_folder);
  read_state_tensors(resume_folder(), weights.state());
  weights.set_weight_globals(about.at("weight_globals").get<std::vector<float>>());
  weights.publish();
  done.steps_done = about.at("step").get<std::int64_t>();
  done.tokens = about.at("tokens").get<std::int64_t>();
  done.seconds = about.at("seconds").get<double>();
  done.validations = validations_of(about.at("validations"));
  done.kept = validations_of(about.at("kept"));
  candidates.resumed(done.kept);
}

Trainer::Trainer(models::Model& student, std::vector<at::Tensor> masters,
                 const models::Model* teacher, const quantize::Policy& policy, TrainConfig config)
    : impl_(std::make_unique<Impl>(student, std::move(masters), teacher, policy,
                                   std::move(config))) {}

Trainer::~Trainer() = default;

TrainResult Trainer::train(const data::Stream& stream, const std::vector<data::Batch>& validation,
                           const Callbacks& callbacks) {
  Impl& run = *impl_;
  const TrainConfig& config = run.config;
  run.ahead.reset();  // of another stream
  if (run.done.steps_done == 0) run.resume(stream, validation);
  if (callbacks.started) callbacks.started(run.done.steps_done);
  const auto start = Clock::now();
  const double seconds_before = run.done.seconds;
  const auto validate = [&] {
    const Validation v = run.validate(validation);
    if (callbacks.validation) callbacks.validation(v);
  };
  const auto save = [&] {
    run.done.seconds = seconds_before + seconds_since(start);
    run.save();
  };

  // Gradients are wanted here and nowhere else: the student is evaluated and exported without.
  struct Gradients {
    Impl& run;
    explicit Gradients(Impl& r) : run(r) { run.weights.require_gradients(true); }
    ~Gradients() {
      run.weights.require_gradients(false);
      run.micro_step.forget();
    }
  } gradients(run);

  if (run.done.validations.empty() && config.validate_every > 0 && !validation.empty()) validate();
  while (run.done.steps_done < config.steps) {
    StepInfo info;
    try {
      info = run.step_once(stream);
    } catch (const c10::OutOfMemoryError& e) {
      const std::string_view what = e.what_without_backtrace();
      run.out_of_memory(std::string(what.substr(0, what.find('.'))));
    }
    if (callbacks.step) callbacks.step(info);
    const bool last = info.step == config.steps;
    const auto due = [&](std::int64_t every) { return every > 0 && info.step % every == 0; };
    const bool validated = !validation.empty() && (last || due(config.validate_every));
    if (last) run.micro_step.forget();  // a validation that ends training may have its memory
    if (validated) validate();
    const bool stopped = !last && callbacks.stop && callbacks.stop();
    if (last || validated || stopped || due(config.save_every)) save();
    if (stopped) {
      run.done.interrupted = true;
      return run.done;
    }
  }
  run.done.interrupted = false;
  return run.done;
}

void Trainer::stop_recording() {
  impl_->micro_step.stop_recording();
}

void Trainer::restore(std::int64_t step) {
  impl_->candidates.restore(step, impl_->weights);
}

std::vector<at::Tensor> Trainer::masters() const {
  std::vector<at::Tensor> high;
  for (const ops::Master& master : impl_->weights.masters()) high.push_back(master.high);
  return high;
}

}  // namespace qad::distill
