// The selective scan of one document and the heads of one group, which share B and C: in chunks, as
// matrix products (the state space dual form), or token after token.
#pragma once

#include <cstdint>

namespace qad::ops {

// Tokens whose part of the scan is a product of matrices, on any device. What is computed of the
// matrix of a chunk's pairs and then masked grows with it, products with states shrink: on a CPU
// 32, 64 and 128 took the same time, to what a busy host lets see (heads of 64, states of 128).
constexpr std::int64_t kScanChunk = 64;

// Token t's x of head h starts at x + t * stride + h * dim, its B and C at b and c + t * stride,
// its time step is step[t * step_stride + h].
struct ScanHeads {
  const float *x, *b, *c;
  std::int64_t stride;
  const float* step;
  std::int64_t step_stride;
  const float *a, *d;  // [heads]: A (below 0) and D
  std::int64_t tokens, heads, dim, state;
};

// y: laid out as x, rows y_stride apart. From the state 0. scratch: scan_scratch floats.
std::int64_t scan_scratch(const ScanHeads& shape);
void scan_forward(const ScanHeads& in, float* y, std::int64_t y_stride, float* scratch);

// What scan_backward writes: dx, db and dc laid out as x, b and c, rows `stride` apart; dstep as
// step; da and dd [heads].
struct ScanGradients {
  float *dx, *db, *dc;
  std::int64_t stride;
  float* dstep;
  float *da, *dd;
};
// grad is laid out as y was. The scratch grows with the tokens: states that enter chunks.
std::int64_t scan_backward_scratch(const ScanHeads& shape);
void scan_backward(const ScanHeads& in, const float* grad, std::int64_t grad_stride,
                   const ScanGradients& out, float* scratch);

// Token after token from `states` [heads, dim, state], which become those after the last token. A
// token's bits do not depend on how many there are.
void scan_steps(const ScanHeads& in, float* states, float* y, std::int64_t y_stride);

}  // namespace qad::ops
