// What training changes: masters with their AdamW moments, and the values that the student reads,
// which are always what would be shipped (ops::ship_ of the masters).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "distill/trainer.h"
#include "ops/adamw.h"

namespace qad::distill {

class Weights {
 public:
  // Throws Error when `masters` do not match the student's parameters.
  // `masters` must be copies: those that have the type of what is held, FP32 or the BF16 of a high
  // half, are held themselves.
  Weights(models::Model& student, std::vector<at::Tensor> masters, nvfp4::GlobalScale rule,
          const TrainConfig& config);

  // FP32, or split (config.split_masters). The high half of a parameter that is not quantised is
  // its value, where that is BF16; the master of a constant is its value.
  const std::vector<ops::Master>& masters() const { return masters_; }
  std::vector<std::string> names() const;  // the first HF name of each parameter

  void require_gradients(bool on);
  at::Tensor gradient_norm() const;  // scalar, on the model's device
  // One AdamW step (`step` from 1) with the gradients times `factor`, an FP32 scalar on the model's
  // device; then the gradients are gone and the values are requantised. A factor of NaN changes
  // nothing. Waits for no device: weight_globals() and the student's scales follow with sync(),
  // which throws Error naming a weight that is not finite, or too large for NVFP4.
  void update(std::int64_t step, double learning_rate, const at::Tensor& factor);
  void sync();

  // Every tensor that a resume point holds, under its name there; the moments exist afterwards.
  std::vector<std::pair<std::string, at::Tensor>> state();
  // The masters alone, with the block scales of those that have some of their own.
  std::vector<std::pair<std::string, at::Tensor>> master_state() const;
  // Global scales can grow while training, so a set of masters is complete only with them.
  std::vector<float> weight_globals() const;
  void set_weight_globals(const std::vector<float>& globals);
  void publish();  // masters (changed from outside) and global scales -> values

 private:
  // Of one parameter: m and v, or the 8-bit ones.
  struct Moments {
    at::Tensor m, v;
    ops::Moment8 m8, v8;
  };
  // Step sizes of a parameter's blocks (learned_scales.h) and their moments, FP32 [rows, blocks].
  struct Steps {
    at::Tensor d, m, v;
  };
  // The largest magnitudes of some parameters, FP32 [parameters], where they were made.
  struct Magnitudes {
    at::Tensor values;
    std::vector<std::size_t> parameters;
  };
  void make_moments();
  // One AdamW step of the learned scales of `which`, whose gradients are still there.
  void update_steps(const std::vector<std::size_t>& which, std::int64_t step, double learning_rate,
                    const at::Tensor& factor);
  // `which`: quantised ones first; amax: of each, or undefined.
  void publish(const std::vector<std::size_t>& which, const at::Tensor& amax);
  ops::Master held(std::size_t i, const at::Tensor& weights);

  const TrainConfig& config_;
  std::vector<models::Parameter*> parameters_;
  std::vector<models::LinearQuant*> quants_;  // null: not quantised
  std::vector<std::size_t> order_;            // of the parameters: quantised ones first
  std::vector<ops::Master> masters_;
  std::vector<Moments> moments_;
  std::vector<Steps> steps_;  // undefined: not learned
  at::Tensor globals_;        // FP32, of each parameter; where the device reads and raises them
  std::vector<Magnitudes> magnitudes_;  // of what was published last
  nvfp4::GlobalScale rule_;
};

}  // namespace qad::distill
