// Mixture of experts as operators: a router picks k of E experts for each token; the T k rows are
// put in the order of their experts once, so that each expert's rows follow each other, go through
// its two products, and are added up again where they came from.
//
// Expert e has rows [offsets[e], offsets[e + 1]) of what is in that order. Any of these ranges may
// be empty, or all rows.
#pragma once

#include "ops/ops.h"

namespace qad::ops {

// As DeepSeek-V3 (arXiv 2412.19437, 2.1.2) and Nemotron 3 route: scores are sigmoids, and a bias
// that balances the load has a say in the choice alone. Or as Qwen3-MoE (arXiv 2505.09388): scores
// are a softmax over all experts.
struct RouterConfig {
  std::int64_t top_k = 1;
  // Experts stand in `groups` equal groups, at least two in each, of which those `top_groups` are
  // eligible whose two best experts add up to most.
  std::int64_t groups = 1, top_groups = 1;
  bool normalize = true;  // the chosen scores are divided by their sum
  double scale = 1;       // and then multiplied by this
  bool softmax = false;
};

struct Routes {
  at::Tensor experts;  // int32 [T, k], the best first; of equal ones the lower number
  at::Tensor weights;  // FP32 [T, k], differentiable by x and weight through the chosen scores
};
// x [T, H], weight [E, H], bias FP32 [E] or undefined, which gets no gradient.
Routes route(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
             const RouterConfig& config);

// Where rows stand when they are sorted by expert, and those of an expert by token.
struct ExpertOrder {
  at::Tensor rows;     // int32 [T, k]: of the j-th choice of token t
  at::Tensor choices;  // int32 [T k]: of each row, t k + j
  at::Tensor offsets;  // int32 [E + 1]
};
// Throws Error for a number that is no expert's.
ExpertOrder sort_by_expert(const at::Tensor& experts, std::int64_t count);

// How rows are quantised as inputs of products by experts, each under its own expert's scale.
struct GroupQuantizer {
  std::vector<double> globals;  // [E]; 0: its rows stay as they are
  nvfp4::BlockScale rule;
  at::Tensor clipped;  // int64 [E], contiguous: as Quantizer::clipped, of each expert
};

// x [T, H] -> [T k, H]: each token's row once for each of its experts, in their order.
at::Tensor gather_rows(const at::Tensor& x, const ExpertOrder& order,
                       const GroupQuantizer* q = nullptr);

// Rows of expert e times its own matrix: x [R, K], weights E times [N, K], int32 offsets [E + 1]
// -> [R, N]. An expert without rows has a gradient of zeros.
at::Tensor grouped_linear(const at::Tensor& x, const std::vector<at::Tensor>& weights,
                          const at::Tensor& offsets);

// swiglu and relu2 of ops.h, and the quantisation of rows by group.
at::Tensor swiglu(const at::Tensor& gate_up, const at::Tensor& offsets, const GroupQuantizer* q);
at::Tensor relu2(const at::Tensor& x, const at::Tensor& offsets, const GroupQuantizer* q);

// y [T k, H] in the order of experts, weights [T, k], addend [T, H] or undefined -> [T, H]: of each
// token the sum of its rows by their weights, first choice first, and the addend.
at::Tensor combine_rows(const at::Tensor& y, const at::Tensor& weights, const ExpertOrder& order,
                        const at::Tensor& addend = {});

}  // namespace qad::ops
