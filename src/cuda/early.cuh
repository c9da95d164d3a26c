// Kernels that begin before the one before them has ended (programmatic dependent launch, Hopper
// and newer). While a text is written a kernel works for 2 us, and its start and its first reads
// would take as long again; what no kernel of the same pass writes (weights) can be read meanwhile.
//
// The rule: a kernel that launch_early() starts calls wait_for_previous() before it reads or writes
// what another kernel touches. Then it ends after all before it, and so the next one's wait is
// enough for all of them.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/vector.cuh"

namespace qad::cuda {

__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}
// The next kernel may begin, if it was launched early.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

// Rows of a pass for which this is worth it; more keep the device busy without.
constexpr std::int64_t kMostEarlyRows = 512;

template <class... Parameters, class... Arguments>
void launch(bool early, void (*kernel)(Parameters...), dim3 grid, dim3 threads, cudaStream_t stream,
            Arguments... arguments) {
  int device = 0, major = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = threads;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early && major >= 9 ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

}  // namespace qad::cuda
