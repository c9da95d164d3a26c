// Attention of one document and one key-value head, all in one core's cache: whole rows of scores
// for eight queries at a time, so that the softmax is the plain one and needs no rescaling.
#pragma once

#include <cstdint>

namespace qad::ops {

// Token t's vector of head h starts at data + t * stride + h * dim. Query heads [0, group) of this
// struct share the one key and the one value head.
struct AttentionHeads {
  const float *q, *k, *v;
  std::int64_t stride;  // floats from one token to the next in q, k and v
  std::int64_t tokens, group, dim;
  float scale;
};

// How many floats of scratch the calls below need for a document of this length.
std::int64_t attention_scratch(std::int64_t tokens, std::int64_t dim);

// out: token t's vector of head h at out + t * out_stride + h * dim. lse: log2 of the sum of
// 2^(scores * log2 e), at lse + h * lse_stride + t.
void attention_forward(const AttentionHeads& in, float* out, std::int64_t out_stride, float* lse,
                       std::int64_t lse_stride, float* scratch);

// grad is laid out as out was; dq, dk and dv as q, k and v.
void attention_backward(const AttentionHeads& in, const float* grad, std::int64_t grad_stride,
                        const float* lse, std::int64_t lse_stride, float* dq, float* dk, float* dv,
                        float* scratch);

}  // namespace qad::ops
