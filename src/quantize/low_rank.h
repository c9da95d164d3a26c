// What is hardest to round of each weight, kept in BF16 beside it (SVDQuant, Li et al., arXiv
// 2411.05007): W = R + up down with the few largest singular values in the product, R in NVFP4; the
// product reads the unquantised input (models::LowRank).
#pragma once

#include "models/model.h"
#include "quantize/policy.h"

namespace qad::quantize {

// Gives each linear that `policy` makes NVFP4, but routed experts and the head, its correction of
// policy.low_rank: shapes without values, for planning and models::build(). Nothing for rank 0.
// Throws Error for a matrix that is no larger than the rank.
void add_low_rank(models::Model& model, const Policy& policy);
// The same of an unquantised model in memory in FP32, with values: R takes the weights' place, and
// the model computes what it did but for the BF16 of the correction.
void split_low_rank(models::Model& model, const Policy& policy);

// The largest `rank` singular values of w, FP32 [rows, cols], as up [rows, rank] and down [rank,
// cols], each with their square roots, rounded to BF16: by subspace iteration (Halko et al., arXiv
// 0909.4061), which repeats to the bit with as many threads.
struct Factors {
  at::Tensor up, down;
};
Factors largest_factors(const at::Tensor& w, std::int64_t rank);

}  // namespace qad::quantize
