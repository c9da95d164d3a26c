// What every operator's registration needs: checks of CUDA tensors at the boundary, and the device
// and stream to launch on.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cmath>
#include <optional>
#include <string_view>

#include "cuda/launch.h"
#include "ops/checks.h"

namespace qad::cuda {

using ops::check_size, ops::describe, ops::named;

// Only float32 and bfloat16 pass.
inline Type type_of(const at::Tensor& t, std::string_view operation, std::string_view name) {
  const bool known = t.defined() && t.is_cuda() &&
                     (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16);
  if (!known)
    fail(operation, "{}: expected float32 or bfloat16 on a GPU, found {}", name, describe(t));
  return t.scalar_type() == at::kFloat ? Type::f32 : Type::bf16;
}

inline Type check_values(const at::Tensor& t, std::int64_t dims, std::string_view operation,
                         std::string_view name) {
  const Type type = type_of(t, operation, name);
  if (t.dim() != dims)
    fail(operation, "{}: expected {} dimensions, found {}", name, dims, describe(t));
  return type;
}

// `t` is of that type, on the device of `beside`, and contiguous when it returns.
inline at::Tensor check_beside(const at::Tensor& t, at::ScalarType type, const at::Tensor& beside,
                               std::string_view operation, std::string_view name) {
  if (!t.defined() || t.scalar_type() != type || t.device() != beside.device())
    fail(operation, "{}: expected {} on {}, found {}", name, c10::toString(type),
         beside.device().str(), describe(t));
  return t.contiguous();
}

// The end of a schema that quantises: "float global_scale, int rule, Tensor(a!)? clipped". The
// counter stays on the GPU: reading it is the caller's wait, if he wants the number.
inline Quantization quantization_of(double global, std::int64_t rule,
                                    const std::optional<at::Tensor>& clipped,
                                    const at::Tensor& beside, std::string_view operation) {
  const float g = static_cast<float>(global);
  if (!clipped || !clipped->defined()) return {g, nvfp4::BlockScale::max, nullptr};
  const bool finite = std::isfinite(nvfp4::kE2M1Max * (nvfp4::kE4M3Max * g));
  check(g >= nvfp4::kMinGlobal && finite, operation,
        "global scale: expected {} or more, and that 2688 times it is finite, found {}; was the "
        "tensor calibrated?",
        nvfp4::kMinGlobal, global);
  const nvfp4::BlockScale scales = ops::checked_rule(rule, operation);
  check_beside(*clipped, at::kLong, beside, operation, "clipped");
  check_size(clipped->numel(), 1, operation, "values of clipped");
  return {g, scales, clipped->data_ptr<std::int64_t>()};
}

// The device of a tensor and its current stream, for as long as this lives. done() follows every
// launch: what CUDA found wrong becomes an error that names the operator and its inputs.
class Launch {
 public:
  Launch(const at::Tensor& t, std::string_view operation)
      : guard_(t.device()), operation_(operation) {}
  cudaStream_t stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }

  template <class... Tensors>
  void done(const Tensors&... inputs) const {
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) refused(error, ops::describe_all(inputs...));
  }

 private:
  // After a kernel has failed every call fails, whichever kernel it was.
  [[noreturn]] void refused(cudaError_t error, const std::string& inputs) const {
    const cudaError_t state = cudaStreamQuery(stream());
    const bool lost = state != cudaSuccess && state != cudaErrorNotReady;
    fail(operation_, "CUDA: {} ({}){}; inputs: {}", cudaGetErrorString(error),
         cudaGetErrorName(error),
         lost ? ", in this operator or one before it: CUDA_LAUNCH_BLOCKING=1 finds out which" : "",
         inputs);
  }

  c10::cuda::CUDAGuard guard_;
  std::string_view operation_;
};

}  // namespace qad::cuda
