// What training changes: FP32 masters with their AdamW moments, and the values that the student
// reads, which are always what would be shipped (quantize::shipped_value of the masters).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "distill/trainer.h"

namespace qad::distill {

class Weights {
 public:
  // Throws Error when `masters` do not match the student's parameters.
  Weights(models::Model& student, std::vector<at::Tensor> masters, nvfp4::GlobalScale rule);

  const std::vector<at::Tensor>& masters() const { return masters_; }
  std::vector<std::string> names() const;  // the first HF name of each parameter

  void require_gradients(bool on);
  double gradient_norm() const;
  // One AdamW step (`step` from 1) with the gradients times `scale`; then the gradients are gone
  // and the values are requantised.
  void update(const TrainConfig& config, std::int64_t step, double learning_rate, double scale);

  // Every tensor that a resume point holds, under its name there; the moments exist afterwards.
  std::vector<std::pair<std::string, at::Tensor>> state();
  // The masters alone.
  std::vector<std::pair<std::string, at::Tensor>> master_state() const;
  // Global scales can grow while training, so a set of masters is complete only with them.
  std::vector<float> weight_globals() const;
  void set_weight_globals(const std::vector<float>& globals);
  void publish();  // masters (changed from outside) and global scales -> values

 private:
  void publish(std::size_t i);

  std::vector<models::Parameter*> parameters_;
  std::vector<models::LinearQuant*> quants_;  // null: not quantised
  std::vector<at::Tensor> masters_, m_, v_;
  nvfp4::GlobalScale rule_;
};

}  // namespace qad::distill
