// Quantisation of rows that an operator has just computed, while they are in a cache: how the CPU's
// implementations do what ops::Quantizer asks for, and how it is handed to those of every device.
#pragma once

#include <atomic>
#include <cmath>

#include "ops/dispatch.h"
#include "ops/ops.h"

namespace qad::ops {

// The arguments of a schema that ends in "float global_scale, int rule, Tensor(a!)? clipped".
struct QuantizerArguments {
  double global = 1;
  std::int64_t rule = 0;
  std::optional<at::Tensor> clipped;  // none: not quantised

  explicit QuantizerArguments(const Quantizer* q) {
    if (q == nullptr) return;
    global = q->global;
    rule = static_cast<std::int64_t>(q->rule);
    clipped = q->clipped;
  }
};

inline float checked_global(double global, std::string_view operation) {
  check(global > 0 && std::isfinite(global), operation,
        "global scale: expected a positive number, found {}; was the tensor calibrated?", global);
  return static_cast<float>(global);
}

class RowQuantizer {
 public:
  RowQuantizer(std::string_view operation, double global, std::int64_t rule,
               const std::optional<at::Tensor>& clipped)
      : global_(static_cast<float>(global)), rule_(static_cast<nvfp4::BlockScale>(rule)) {
    if (!clipped || !clipped->defined()) return;
    check_tensor(*clipped, at::kLong, 0, operation, "clipped");
    checked_global(global, operation);
    checked_rule(rule, operation);
    counter_ = clipped->data_ptr<std::int64_t>();
  }

  // `to` may be `from`. Any thread may call it; without a counter it does nothing.
  void operator()(const float* from, std::int64_t rows, std::int64_t cols, float* to) {
    if (counter_ != nullptr) clipped_ += nvfp4::fake_quantize(from, rows, cols, global_, rule_, to);
  }
  // When all rows are done.
  void count() {
    if (counter_ != nullptr) *counter_ += clipped_;
  }

 private:
  float global_;
  nvfp4::BlockScale rule_;
  std::int64_t* counter_ = nullptr;
  std::atomic<std::int64_t> clipped_ = 0;
};

}  // namespace qad::ops
