// The training loop of QAD and QAT: teacher(x), student(x) -> head loss -> gradients -> master
// weights -> requantised weights. Resumable to the same bits on a CPU; stops and saves at an
// interrupt.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/batches.h"
#include "models/model.h"
#include "ops/head_loss.h"
#include "quantize/policy.h"

namespace qad::distill {

enum class Schedule { constant, linear, cosine };
enum class StateType { fp32, bf16, int8 };  // of AdamW's moments (ops/adamw.h)

struct TrainConfig {
  std::int64_t steps = 300;
  std::int64_t seq_len = 256, batch_sequences = 16;  // tokens a step = seq_len * batch_sequences
  std::int64_t micro_sequences = 0;                  // sequences a micro-batch; 0: all at once
  std::int64_t micro_batch() const {
    return micro_sequences > 0 ? std::min(micro_sequences, batch_sequences) : batch_sequences;
  }
  double learning_rate = 1e-5, final_fraction = 0.1;
  std::int64_t warmup_steps = 20;
  Schedule schedule = Schedule::cosine;
  bool split_masters = false;  // BF16 and the 16 bits below (ops/adamw.h); else FP32
  StateType optimizer_states = StateType::fp32;
  bool bf16_gradients = false;  // on a GPU; else FP32
  bool cuda_graphs = true;      // on a GPU: micro-batches are recorded and replayed
  bool bf16_logits = false;     // on a GPU, while training; validation's are FP32
  bool learn_scales = false;    // block scales too (learned_scales.h); on a CPU
  double scales_rate = 0.05;    // their learning rate, times that of weights
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0, clip_norm = 1;
  ops::LossWeights loss;
  std::uint64_t seed = 0;
  std::int64_t validate_every = 0;  // steps, and before the first; 0: only at the end
  std::int64_t keep_best = 10;      // checkpoints kept by validation loss
  // Steps between resume points, besides those after each validation, at the end and at an
  // interrupt; 0: only those.
  std::int64_t save_every = 0;
  bool cache_teacher =
      false;  // keep the teacher's final hidden states and reuse them in later epochs
  std::string cache_folder;  // keep them there, for later runs too; empty: in memory
  std::string state_folder;  // resume points and kept masters; empty: keep in memory only
};

struct StepInfo {
  std::int64_t step = 0, steps = 0;
  double loss = 0, kl = 0, ce = 0;  // means over the step's target tokens, before its update
  double gradient_norm = 0, learning_rate = 0;
  double tokens_per_second = 0;  // of this step
  std::int64_t tokens = 0;       // since step 0
};
struct Validation {
  std::int64_t step = 0;
  double loss = 0, kl = 0, ce = 0;
};

struct TrainResult {
  std::int64_t steps_done = 0, tokens = 0;
  double seconds = 0;
  bool interrupted = false;
  std::vector<Validation> validations;
  std::vector<Validation> kept;  // the best by validation loss, best first
};

struct Callbacks {
  // Once, before any other: 0, or the steps that a resumed run had done (all of them, if it was
  // killed after the last).
  std::function<void(std::int64_t steps_done)> started;
  std::function<void(const StepInfo&)> step;
  std::function<void(const Validation&)> validation;
  std::function<bool()> stop;  // asked after each step: true saves and returns
};

// Owns masters, moments and the kept candidates. `student` must be quantised already
// (quantize::quantize, or quantize_by_hessians), with `masters` the weights its values came from;
// config.learn_scales wants the scales as data (quantize::fix_scales); `teacher` may be null for
// pure cross-entropy (QAT).
class Trainer {
 public:
  Trainer(models::Model& student, std::vector<at::Tensor> masters, const models::Model* teacher,
          const quantize::Policy& policy, TrainConfig config);
  ~Trainer();

  // Resumes from config.state_folder when it holds a matching resume point (an Error says what
  // differs: a setting, the data, the model, the teacher, how a linear is quantised, the number of
  // threads) and gives the bits of the uninterrupted run. Throws Error when loss or gradient stop
  // being finite; the weights are then those of the step before, the resume point is the last one
  // saved.
  TrainResult train(const data::Stream& stream, const std::vector<data::Batch>& validation,
                    const Callbacks& callbacks);

  // From the next step on every operator runs by itself, for who wants to watch them.
  void stop_recording();

  // Puts the masters kept at `step` into the student (values requantised). Used for the report's
  // checkpoint choice: evaluate each of TrainResult::kept, restore the best.
  void restore(std::int64_t step);
  // In the order of models::parameters(); split ones by their high half, which is what an export
  // reads of either.
  std::vector<at::Tensor> masters() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Of update `step`, counted from 0: up in warmup_steps equal steps, then down to final_fraction of
// the rate, reached at the last update (constant stays).
double learning_rate_at(const TrainConfig& config, std::int64_t step);

// What training will take in bytes, by kind, before it starts; the sum is the predicted peak: of
// the program on a CPU, of what is allocated on a GPU (goal: within 10 %). epoch_tokens, if not 0,
// bounds the teacher's cache; `policy` says whose inputs are quantised.
//
// With `cards` > 1 a plan for that many GPUs, of what each would hold if they trained together as
// ZeRO's stage 3 and FSDP do (arXiv 1910.02054, 2304.11277); the trainer itself uses one. `config`
// and `epoch_tokens` are then a card's share. Weights of both models, masters, moments and
// gradients are spread evenly; whole on each card are two layers' weights that follow each other,
// or both heads, and the gradient of one layer until it is summed up; activations are a card's own.
struct MemoryPlan {
  std::vector<std::pair<std::string, double>> bytes;
  double total() const;
};
MemoryPlan plan_memory(const models::ModelConfig& student, const models::ModelConfig* teacher,
                       const TrainConfig& config, const models::Placement& placement,
                       std::int64_t epoch_tokens = 0, const quantize::Policy& policy = {},
                       std::int64_t cards = 1);
// How a step fits into a GPU with `room` bytes free, a twentieth of which is left to fragmentation:
// the fewest equal micro-batches (or config.micro_sequences, if given), with inputs packed if they
// fit only so; and where not even the smallest does, with the fewest layers computed again in the
// backward pass, but not fewer than the placement says.
struct Fit {
  std::int64_t micro_sequences = 1;
  bool packs_inputs = false;
  std::int64_t recomputed_layers = 0;
  bool cuda_graphs = true;  // asked for, and there is room for a validation beside their memory
  bool fits = true;         // false: not even the least, which the others then are

  void apply(TrainConfig& config, models::Placement& placement) const;
};
Fit fit_memory(const models::ModelConfig& student, const models::ModelConfig* teacher,
               TrainConfig config, models::Placement placement, double room,
               std::int64_t epoch_tokens = 0, const quantize::Policy& policy = {},
               std::int64_t cards = 1);

}  // namespace qad::distill
