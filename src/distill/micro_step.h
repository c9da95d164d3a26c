// What a step does with each of its micro-batches: teacher and student forward, loss, backward. On
// a GPU all of it is one recorded CUDA graph a micro-batch, which gives the numbers of the plain
// way and takes the host a hundredth of its time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "data/batches.h"
#include "distill/teacher.h"
#include "distill/trainer.h"
#include "models/recording.h"

namespace qad::distill {

// Sums over micro-batches, in FP64 where the model is: one look at a step's end is the only wait
// for a GPU.
struct Sums {
  at::Tensor loss, kl, ce;  // of the weighted loss; of each token's divergence and cross-entropy

  explicit Sums(at::Device device);
  void add(const ops::HeadOutputs& out);
  void clear();
};

// Both heads and the loss of a batch on the student's device, with sums over its tokens.
ops::HeadOutputs head_of(const models::Model& student, const Teacher& teacher,
                         const TrainConfig& config, const data::Batch& batch,
                         const at::Tensor& teacher_hidden);

class MicroStep {
 public:
  MicroStep(models::Model& student, const Teacher& teacher, const TrainConfig& config);

  // Before a step: forgets the sums, and decides whether it is replayed. The student's parameters
  // have no gradients yet.
  void begin(const std::vector<data::Batch>& batches);
  // The next of them: adds to the gradients and the sums. `batch` may be on the CPU;
  // teacher_hidden: on the student's device, undefined where the teacher is to be run.
  void run(const data::Batch& batch, const at::Tensor& teacher_hidden);
  const Sums& sums() const { return sums_; }

  // Lets recordings and their memory go.
  void forget();
  // From now on without recordings: each operator can be watched.
  void stop_recording();

 private:
  // Where a recording reads its micro-batch; documents behind the last are empty.
  struct Inputs {
    data::Batch batch;
    at::Tensor teacher_hidden;
    bool equal = false;  // all documents have one length: attention has faster kernels for those
  };
  void plainly(const data::Batch& batch, const at::Tensor& teacher_hidden);
  void load(const data::Batch& batch, const at::Tensor& teacher_hidden);

  models::Model& student_;
  const Teacher& teacher_;
  const TrainConfig& config_;
  Sums sums_;
  bool records_;
  int plain_steps_ = 0;   // before the first recording: what is made once is made then
  bool replays_ = false;  // this step
  bool first_ = true;     // of this step's micro-batches
  std::optional<Inputs> inputs_;
  // The first makes gradients, the next ones add to them.
  std::optional<models::ModelRecording> first_graph_, next_graph_;
  std::vector<at::Tensor> gradients_;  // of the first
  std::vector<at::Tensor> held_;       // what the recordings read besides
};

}  // namespace qad::distill
