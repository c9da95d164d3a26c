// What the program asks before it computes: what is wrong with this machine's driver or GPU, and
// what they are.
#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include <string>

namespace {

std::string version(int v) {
  return fmt::format("{}.{}", v / 1000, v % 1000 / 10);
}

}  // namespace

// Both texts stay valid until the next call. Empty: nothing is wrong.
extern "C" const char* qad_cuda_problem() {
  static std::string problem;
  int runtime = 0, driver = 0, count = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  problem.clear();
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    cudaGetLastError();
    problem = fmt::format(
        "no usable GPU: {}; this program needs a driver for CUDA {} or newer, found {}",
        error == cudaSuccess ? "none is visible" : cudaGetErrorString(error), version(runtime),
        driver == 0 ? "no driver" : "one for CUDA " + version(driver));
    return problem.c_str();
  }
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  if (major < 8)
    problem = fmt::format("the GPU has compute capability {}.{}; BF16 needs 8.0 (Ampere) or newer",
                          major, minor);
  return problem.c_str();
}

extern "C" const char* qad_cuda_machine() {
  static std::string text;
  cudaDeviceProp properties{};
  int driver = 0;
  cudaGetDeviceProperties(&properties, 0);
  cudaDriverGetVersion(&driver);
  text = fmt::format("{}, {} multiprocessors, driver for CUDA {}", properties.name,
                     properties.multiProcessorCount, version(driver));
  return text.c_str();
}
