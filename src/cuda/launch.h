// The kernels' launchers: pointers, sizes and a stream, so that no .cu file has to include a torch
// header. Tensors are contiguous unless a stride is given; the .cpp beside each .cu checks that.
//
// Indices cannot be checked here without waiting for the device: a token id, position or label out
// of range makes NaN of its own row, which the trainer's check for NaN then names.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "nvfp4/nvfp4.h"
#include "ops/adamw_step.h"
#include "ops/loss_weights.h"

namespace qad::cuda {

enum class Type { f32, bf16 };  // of values in memory; arithmetic is FP32

void embedding(Type type, const void* weight, const std::int64_t* ids, std::int64_t rows,
               std::int64_t cols, std::int64_t tokens, void* out, cudaStream_t stream);
// sorted: ids in rising order; order: the token that each came from, rising among equal ids. Writes
// the rows of `out` (zeros before) that have tokens, each summed in the order of its tokens.
void embedding_backward(Type type, const void* grad, const std::int64_t* sorted,
                        const std::int64_t* order, std::int64_t rows, std::int64_t cols,
                        std::int64_t tokens, float* out, cudaStream_t stream);

// clipped grows by the number of values beyond 2688 * global.
void fake_quantize(Type type, const void* x, std::int64_t rows, std::int64_t cols, float global,
                   nvfp4::BlockScale rule, void* y, std::int64_t* clipped, cudaStream_t stream);

void rms_norm(Type type, const void* x, const void* weight, float eps, std::int64_t rows,
              std::int64_t cols, void* y, float* inverse, cudaStream_t stream);
// The weight's gradient comes in `partials` sums [partials, cols], each over its share of rows.
void rms_norm_backward(Type type, const void* grad, const void* x, const void* weight,
                       const float* inverse, std::int64_t rows, std::int64_t cols, void* dx,
                       float* dweight, std::int64_t partials, cudaStream_t stream);

// cos and sin: [table_rows, dim / 2]. sign -1 turns back.
void rope(Type type, const void* x, const float* cos, const float* sin,
          const std::int64_t* positions, std::int64_t table_rows, std::int64_t tokens,
          std::int64_t heads, std::int64_t dim, std::int64_t rotated, float sign, void* y,
          cudaStream_t stream);

// gate_up [rows, 2 cols] -> y [rows, cols], and back.
void swiglu(Type type, const void* gate_up, std::int64_t rows, std::int64_t cols, void* y,
            cudaStream_t stream);
void swiglu_backward(Type type, const void* grad, const void* gate_up, std::int64_t rows,
                     std::int64_t cols, void* dgate_up, cudaStream_t stream);

// One attention over packed documents, as ops::attention describes it.
struct AttentionShape {
  std::int64_t tokens, heads, kv_heads, dim, documents;
  const std::int32_t* starts;  // [documents + 1], on the device
  float scale;
};
constexpr std::int64_t kMaxHeadDim = 256;
// lse [heads, tokens]: natural logarithms of the sums of exponentials.
void attention(Type type, const AttentionShape& shape, const void* qkv, void* out, float* lse,
               cudaStream_t stream);
// delta [heads, tokens]: scratch.
void attention_backward(Type type, const AttentionShape& shape, const void* grad, const void* qkv,
                        const float* lse, void* dqkv, float* delta, cudaStream_t stream);

// Rows of logits of the head, and what becomes of them.
struct HeadRows {
  const float* student;  // [rows, vocabulary] with `stride`, a multiple of 4; 16-byte aligned
  const float* teacher;  // null: none
  std::int64_t rows, vocabulary, stride;
  const std::int64_t* labels;  // [rows], as all below
  const float* weights;
  ops::LossWeights w;
  double normalizer;
  double* loss;  // weight * loss of each row
  float *kl, *ce, *teacher_ce, *agree;
  void* gradient;  // of the sum of `loss` over normalizer; null: not wanted; may be `student`
  Type gradient_type;
  std::int64_t gradient_stride;  // a multiple of 4
};
void head_rows(const HeadRows& rows, cudaStream_t stream);

// The moments of an optimiser: floats, or 8-bit codes with a scale for each ops::kMomentBlock.
struct Moments {
  enum Kind { f32, bf16, coded } kind;
  void *m, *v;
  float *m_scales, *v_scales;  // of codes
};
// One AdamW update of n elements; factor null: 1. amax: the bits of a float, the largest of
// bf16(master).
void adamw(const ops::AdamWStep& step, Type grad_type, const void* grad, float* master,
           const Moments& moments, const float* factor, std::int64_t n, std::uint32_t* amax,
           cudaStream_t stream);

struct Values {
  const void* data;
  std::int64_t n;
  Type type;
};
// The root of the sum of squares of all; partials: scratch for norm_partials doubles.
std::int64_t norm_partials(std::span<const Values> grads);
void gradient_norm(std::span<const Values> grads, double* partials, double* norm,
                   cudaStream_t stream);

// amax as adamw's.
void weight_amax(const float* master, std::int64_t n, std::uint32_t* amax, cudaStream_t stream);
// As ops::ship_; `out` gets what that returns.
void ship(const float* master, std::int64_t rows, std::int64_t cols, const float* amax,
          nvfp4::GlobalScale global_rule, nvfp4::BlockScale rule, Type type, void* value,
          float* global, float* out, cudaStream_t stream);

}  // namespace qad::cuda
