// What every operator's registration needs: checks of CUDA tensors at the boundary, and the device
// and stream to launch on.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <string_view>

#include "core/error.h"
#include "cuda/launch.h"

namespace qad::cuda {

inline std::string describe(const at::Tensor& t) {
  if (!t.defined()) return "an undefined tensor";
  std::string shape;
  for (const std::int64_t n : t.sizes()) shape += (shape.empty() ? "" : ", ") + std::to_string(n);
  return fmt::format("{} [{}] on {}", c10::toString(t.scalar_type()), shape, t.device().str());
}

// Only float32 and bfloat16 pass.
inline Type type_of(const at::Tensor& t, std::string_view operation, std::string_view name) {
  const bool known = t.defined() && t.is_cuda() &&
                     (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16);
  check(known, operation, "{}: expected float32 or bfloat16 on a GPU, found {}", name, describe(t));
  return t.scalar_type() == at::kFloat ? Type::f32 : Type::bf16;
}

inline Type check_values(const at::Tensor& t, std::int64_t dims, std::string_view operation,
                         std::string_view name) {
  const Type type = type_of(t, operation, name);
  check(t.dim() == dims, operation, "{}: expected {} dimensions, found {}", name, dims,
        describe(t));
  return type;
}

// `t` is of that type, on the device of `beside`, and contiguous when it returns.
inline at::Tensor check_beside(const at::Tensor& t, at::ScalarType type, const at::Tensor& beside,
                               std::string_view operation, std::string_view name) {
  check(t.defined() && t.scalar_type() == type && t.device() == beside.device(), operation,
        "{}: expected {} on {}, found {}", name, c10::toString(type), beside.device().str(),
        describe(t));
  return t.contiguous();
}

inline void check_size(std::int64_t found, std::int64_t expected, std::string_view operation,
                       std::string_view what) {
  check(found == expected, operation, "{}: expected {}, found {}", what, expected, found);
}

// The device of a tensor and its current stream, for as long as this lives; done() names the
// operator and its input if CUDA refused a launch.
class Launch {
 public:
  Launch(const at::Tensor& t, std::string_view operation)
      : guard_(t.device()), operation_(operation), what_(t) {}
  cudaStream_t stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }
  void done() const {
    const cudaError_t error = cudaGetLastError();
    check(error == cudaSuccess, operation_, "CUDA: {} ({}); input: {}", cudaGetErrorString(error),
          cudaGetErrorName(error), describe(what_));
  }

 private:
  c10::cuda::CUDAGuard guard_;
  std::string_view operation_;
  const at::Tensor& what_;
};

}  // namespace qad::cuda
