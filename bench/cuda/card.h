// What the timings of CUDA operators share: a card's measured rates and lines that stand beside
// them.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <string>

namespace qad::bench {

using at::Tensor;

// The median of `repeats` calls, in milliseconds. Before each one the card reads 256 MB: nothing of
// the call is left in its cache then, and it is queued before its time begins.
inline double time(const std::function<void()>& f, int repeats = 15) {
  static const Tensor scratch = at::zeros({64 << 20}, at::kCUDA);
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  for (int i = 0; i < 3; ++i) f();
  std::vector<float> times;
  for (int i = 0; i < repeats; ++i) {
    scratch.sum();
    cudaEventRecord(begin, stream);
    f();
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    cudaEventElapsedTime(&times.emplace_back(), begin, end);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

inline std::vector<at::IValue> call(const char* name, std::vector<at::IValue> stack) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(&stack);
  return stack;
}

inline std::string only;  // lines whose names hold it

struct Card {
  double bytes_per_second, flops_per_second;
};

inline Tensor bf16(at::IntArrayRef shape, double scale = 1) {
  return at::randn(shape, at::TensorOptions(at::kCUDA).dtype(at::kBFloat16)).mul(scale);
}

inline Card measure() {
  const std::int64_t bytes = std::int64_t{4} << 30, n = 8192;
  const Tensor from = at::randn({bytes / 4}, at::kCUDA), to = at::empty_like(from);
  const double copy = time([&] { to.copy_(from); });
  const Tensor a = bf16({n, n}), b = bf16({n, n}), c = at::empty_like(a);
  Tensor out = c;
  const double product = time([&] { at::mm_out(out, a, b); });
  return {2.0 * bytes / copy * 1e3, 2.0 * n * n * n / product * 1e3};
}

inline void line(const Card& card, const char* name, double bytes, double flops,
                 const std::function<void()>& f) {
  if (std::string(name).find(only) == std::string::npos) return;
  const double ms = time(f);
  const double floor = std::max(bytes / card.bytes_per_second, flops / card.flops_per_second) * 1e3;
  fmt::print("{:<38} {:>9.3f} {:>9.2f} {:>9.1f} {:>9.3f} {:>7.0f}%\n", name, ms, bytes / ms / 1e9,
             flops / ms / 1e9, floor, 100 * floor / ms);
  std::fflush(stdout);
}

// Optimiser steps: optimizer.cpp.
void optimizer(const Card& card);
// What hybrids add: hybrid.cpp.
void hybrid(const Card& card);

}  // namespace qad::bench
