// GPU work recorded once and started as a whole (a CUDA graph): its thousands of launches cost the
// host as much as one.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace qad::models {

struct Model;

class Recording {
 public:
  virtual ~Recording() = default;
  // Does again what was recorded, on the current stream: same kernels, same addresses. What the
  // work allocated and still held at its end stays valid, and is written anew.
  virtual void replay() = 0;
};

// Runs `work`, whose launches on the device are recorded and not done. It may not wait for the
// device, and every tensor that it reads from outside must stay where it is while the recording
// lives. Recordings share the memory of what they allocate and let go, so two of them may not run
// at once. An error of `work` is passed on; Error without a GPU.
std::unique_ptr<Recording> record_work(const at::Device& device, const std::function<void()>& work);

// The same of work on a model, which counts what its linears quantise (LinearQuant::seen) where
// only the host knows it. The model must outlive it.
class ModelRecording {
 public:
  ModelRecording(const Model& model, const std::function<void()>& work);
  void replay();

 private:
  const Model* model_;
  std::vector<std::int64_t> seen_;  // what a replay adds
  std::unique_ptr<Recording> recording_;
};

// What the plug-in exports for it: as record_work, in C's calling convention, for ownership.
using RecordWork = Recording* (*)(const std::function<void()>& work);

}  // namespace qad::models
