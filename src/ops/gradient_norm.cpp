// The norm of all gradients together: chunks of fixed length are summed in double by whichever
// thread is free, then a tensor's chunks in their order, then the tensors.
#include <array>
#include <cmath>
#include <vector>

#include "ops/adamw.h"
#include "ops/dispatch.h"

namespace qad::ops {
namespace {

using at::Tensor;

constexpr std::int64_t kChunk = 16384;

double sum_of_squares(const float* x, std::int64_t n) {
  constexpr std::int64_t kLanes = 8;
  std::array<double, kLanes> sums{};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (std::int64_t j = 0; j < kLanes; ++j)
      sums[static_cast<std::size_t>(j)] += double(x[i + j]) * double(x[i + j]);
  for (; i < n; ++i) sums[0] += double(x[i]) * double(x[i]);
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

Tensor gradient_norm_cpu(at::TensorList grads) {
  struct Chunk {
    const float* x;
    std::int64_t n;
    bool last;  // of its tensor
    double sum;
  };
  std::vector<Tensor> whole;
  std::vector<Chunk> chunks;
  for (const Tensor& t : grads) {
    check(t.defined() && t.scalar_type() == at::kFloat && t.is_cpu(), "gradient_norm",
          "gradient {}: expected FP32 on the CPU, found {}", whole.size(), describe(t));
    const float* x = whole.emplace_back(t.contiguous()).const_data_ptr<float>();
    const std::int64_t n = t.numel();
    for (std::int64_t i = 0; i < n; i += kChunk)
      chunks.push_back({x + i, std::min(kChunk, n - i), i + kChunk >= n, 0});
  }
  parallel_for(0, static_cast<std::int64_t>(chunks.size()), 1,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t c = begin; c < end; ++c) {
                   Chunk& chunk = chunks[static_cast<std::size_t>(c)];
                   chunk.sum = sum_of_squares(chunk.x, chunk.n);
                 }
               });
  double total = 0, tensor = 0;
  for (const Chunk& c : chunks) {
    tensor += c.sum;
    if (c.last) total += std::exchange(tensor, 0);
  }
  return at::scalar_tensor(std::sqrt(total), at::kDouble);
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def("gradient_norm(Tensor[] grads) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("gradient_norm", gradient_norm_cpu);
}

}  // namespace

Tensor gradient_norm(const std::vector<Tensor>& grads) {
  // The device is that of the gradients: without any, the sum is nothing, on the CPU.
  if (grads.empty()) return at::scalar_tensor(0.0, at::kDouble);
  static const auto op = find_op<decltype(gradient_norm_cpu)>("qad::gradient_norm");
  return call_kernel(op, at::TensorList(grads));
}

}  // namespace qad::ops
