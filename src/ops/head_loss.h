// Output heads and distillation loss as one operator over chunks of tokens: both logits of a chunk,
// divergence, gradient, gone. Whole logits never exist (design decision 8); FP32 throughout
// on a CPU; on a GPU the gradient of the logits is BF16, and so are logits if asked for.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/loss_weights.h"

namespace qad::ops {

struct HeadInputs {
  at::Tensor
      student_hidden;  // [T, H], after the final norm (already fake-quantised if the head is)
  at::Tensor student_weight;  // [V, H]
  at::Tensor teacher_hidden;  // [T, Ht]; undefined: no teacher, only cross-entropy is possible
  at::Tensor teacher_weight;  // [V, Ht]
  at::Tensor labels;          // int64 [T]: the token that follows; on any device
  // float [T], on any device: 0 leaves a position out; for a mean over the target tokens of an
  // optimiser step, however many micro-batches it has, one over their number
  at::Tensor weights;
};

struct HeadOutputs {
  at::Tensor loss;  // scalar, differentiable: sum over tokens of weight * loss
  // per token, without gradient, at temperature 1; zero where weights are zero:
  at::Tensor kl;          // KL(teacher || student), nats; undefined without teacher
  at::Tensor ce;          // student's cross-entropy on the labels
  at::Tensor teacher_ce;  // undefined without teacher
  at::Tensor agree;       // 1 where a token is the largest of both; undefined without teacher
};

// Gradients flow to student_hidden and student_weight. `chunk_tokens` 0: as many as
// keep the logits within 64 MB (on a GPU: 4 GB). `bf16_logits`, on a GPU with BF16 hidden states
// alone and an Error elsewhere: both logits are rounded to BF16 where a product writes them, which
// saves memory traffic and costs KL (NUMERICS.md, 5). The gradients are made here and handed over
// by the backward pass; a second one throws unless the graph is retained.
HeadOutputs head_loss(const HeadInputs& in, const LossWeights& loss, std::int64_t chunk_tokens = 0,
                      bool bf16_logits = false);

}  // namespace qad::ops
