// The launchers of a mixture of experts (ops/experts.h), as launch.h has them. Which rows an expert
// has is known on the device alone: no launch waits for it.
#pragma once

#include "cuda/launch.h"

namespace qad::cuda {

struct Router {
  std::int64_t tokens, experts, top_k, groups, top_groups;
  const float* bias;  // [experts] or null
  bool normalize, softmax;
  float scale;
};
// logits [tokens, experts] FP32 become the scores of all; weights and scores [tokens, top_k].
void route(const Router& r, float* logits, float* weights, std::int32_t* chosen, float* scores,
           cudaStream_t stream);
// all: for a softmax the logits, which become its scores, else null. dlogits [tokens, experts].
void route_backward(const Router& r, const float* grad, const std::int32_t* chosen,
                    const float* scores, float* all, float* dlogits, cudaStream_t stream);

// From a stable sort: `sorted` experts and the choice that each came from.
void expert_rows(const std::int32_t* sorted, const std::int64_t* from, std::int64_t count,
                 std::int64_t experts, std::int32_t* rows, std::int32_t* choices,
                 std::int32_t* offsets, cudaStream_t stream);

// out[rows[t, j]] = x[t]; rows [tokens, k].
void gather_rows(Type type, const void* x, const std::int32_t* rows, std::int64_t tokens,
                 std::int64_t k, std::int64_t cols, void* out, cudaStream_t stream);
// out[t] = addend[t] + sum over j of weights[t, j] y[rows[t, j]]; null: none, and 1.
void combine_rows(Type type, const void* y, const float* weights, const std::int32_t* rows,
                  const void* addend, std::int64_t tokens, std::int64_t k, std::int64_t cols,
                  void* out, cudaStream_t stream);
void combine_rows_backward(Type type, const void* grad, const void* y, const float* weights,
                           const std::int32_t* rows, std::int64_t tokens, std::int64_t k,
                           std::int64_t cols, void* dy, float* dweights, cudaStream_t stream);

void relu2(Type type, const void* x, std::int64_t n, void* y, cudaStream_t stream);
void relu2_backward(Type type, const void* grad, const void* x, std::int64_t n, void* dx,
                    cudaStream_t stream);

// As fake_quantize, in place, with a global scale for each group of rows; 0: they stay as they are.
constexpr std::int64_t kMostGroups = 512;
struct GroupScales {
  float global[kMostGroups];  // an argument of the kernel: 2 KB
};
struct RowGroups {
  std::int64_t rows, cols, groups;
  const std::int32_t* offsets;  // [groups + 1]; null: one group
};
void fake_quantize_groups(Type type, void* x, const RowGroups& g, const GroupScales& scales,
                          nvfp4::BlockScale rule, std::int64_t* clipped, cudaStream_t stream);

// Products of groups of rows with a matrix each, for what at::_grouped_mm does not take: FP32 sums
// of FP32 products. weights [groups, outputs, columns].
struct GroupedProduct {
  Type type;
  std::int64_t rows, columns, outputs, groups;
  const std::int32_t* offsets;
};
void grouped_product(const GroupedProduct& p, const void* x, const void* weights, void* y,
                     cudaStream_t stream);
// dx [rows, columns] and dweights [groups, outputs, columns].
void grouped_product_of_x(const GroupedProduct& p, const void* grad, const void* weights, void* dx,
                          cudaStream_t stream);
void grouped_product_of_weights(const GroupedProduct& p, const void* grad, const void* x,
                                void* dweights, cudaStream_t stream);

}  // namespace qad::cuda
