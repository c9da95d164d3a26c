// Where a step's time goes, by operator: PyTorch's dispatcher tells when one begins and ends, and
// events on the device's stream take the time, so that nothing waits while it runs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace qad::recipe {

struct OperatorTime {
  std::string name;  // "qad::swiglu", "aten::mm": the outermost operator counts
  double seconds = 0;
  std::int64_t calls = 0;
};

// Counts from its making until `stop`. One at a time.
class OperatorTimes {
 public:
  explicit OperatorTimes(at::Device device);
  OperatorTimes(const OperatorTimes&) = delete;
  OperatorTimes& operator=(const OperatorTimes&) = delete;
  ~OperatorTimes();
  // Waits for the device; the longest first.
  std::vector<OperatorTime> stop();

 private:
  std::uint64_t handle_;
  bool running_ = true;
};

}  // namespace qad::recipe
