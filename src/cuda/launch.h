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

// How a result is quantised before it is written; clipped grows by the number of values beyond
// 2688 * global. Without a counter it is not quantised.
struct Quantization {
  float global;
  nvfp4::BlockScale rule;
  std::int64_t* clipped;
  bool wanted() const { return clipped != nullptr; }
};

void embedding(Type type, const void* weight, const std::int64_t* ids, std::int64_t rows,
               std::int64_t cols, std::int64_t tokens, void* out, cudaStream_t stream);
// sorted: ids in rising order; order: the token that each came from, rising among equal ids. Adds
// to the rows of `out` in the order of their tokens; `fresh`: they are zeros, and need not be read.
void embedding_backward(Type type, const void* grad, const std::int32_t* sorted,
                        const std::int64_t* order, std::int64_t rows, std::int64_t cols,
                        std::int64_t tokens, bool fresh, float* out, cudaStream_t stream);

// y may be x.
void fake_quantize(Type type, const void* x, std::int64_t rows, std::int64_t cols,
                   const Quantization& q, void* y, cudaStream_t stream);

// As nvfp4::pack and dequantize, of values of `type`.
void pack(Type type, const void* x, std::int64_t rows, std::int64_t cols, float global,
          std::uint8_t* codes, std::uint8_t* scales, cudaStream_t stream);
void unpack(Type type, const std::uint8_t* codes, const std::uint8_t* scales, std::int64_t rows,
            std::int64_t cols, float global, void* y, cudaStream_t stream);

// The operands of a norm of rows [rows, cols].
struct NormRows {
  const void *x, *weight;
  std::int64_t rows, cols;
};
// delta null: none, and no sum is written.
void rms_norm(Type type, const NormRows& in, const void* delta, float eps, const Quantization& q,
              void* sum, void* y, float* inverse, cudaStream_t stream);
// Sums of the weight's gradient over shares of the rows come first: so many, from rows and cols
// alone, that the result has the same bits on every GPU.
std::int64_t rms_norm_partials(Type type, std::int64_t rows, std::int64_t cols);
// grad_sum is added to dx; null: none. partial [partials, cols] is scratch.
void rms_norm_backward(Type type, const NormRows& in, const void* grad, const void* grad_sum,
                       const float* inverse, void* dx, float* partial, float* dweight,
                       cudaStream_t stream);

// cos and sin: [table_rows, dim / 2]. sign -1 turns back.
void rope(Type type, const void* x, const float* cos, const float* sin,
          const std::int64_t* positions, std::int64_t table_rows, std::int64_t tokens,
          std::int64_t heads, std::int64_t dim, std::int64_t rotated, float sign, void* y,
          cudaStream_t stream);

// gate_up [rows, 2 cols] -> y [rows, cols], and back.
void swiglu(Type type, const void* gate_up, std::int64_t rows, std::int64_t cols,
            const Quantization& q, void* y, cudaStream_t stream);
void swiglu_backward(Type type, const void* grad, const void* gate_up, std::int64_t rows,
                     std::int64_t cols, void* dgate_up, cudaStream_t stream);

// y [rows, outputs] = x [rows, columns] weight^T + bias, all BF16; bias null: none. For up to
// kMostLinearRows rows, columns in eights and 16-byte aligned x and weight.
constexpr std::int64_t kMostLinearRows = 16;
void linear_rows(const void* x, const void* weight, const void* bias, std::int64_t rows,
                 std::int64_t outputs, std::int64_t columns, void* y, cudaStream_t stream);

// A weight in NVFP4 as checkpoints lay it out: codes [outputs, columns / 2], scales [outputs,
// columns / 16]; rows before ends[i], and not before ends[i - 1], have the global scale globals[i].
struct PackedRows {
  static constexpr int kMostParts = 4;
  const std::uint8_t *codes, *scales;
  int parts;
  int ends[kMostParts];
  float globals[kMostParts];
};
// As linear_rows for up to kMostPackedRows rows, columns in 32s and 16-byte aligned x and codes,
// with the weight's values rounded to BF16.
constexpr std::int64_t kMostPackedRows = 64;
void linear_packed(const void* x, const PackedRows& weight, const void* bias, std::int64_t rows,
                   std::int64_t outputs, std::int64_t columns, void* y, cudaStream_t stream);

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

// One attention over a paged cache, as ops::paged_attention describes it; of head sizes up to
// kMaxHeadDim. A query is NaN whose sequence reads a page below 0 or not below pages_held.
struct PagedShape {
  std::int64_t tokens, heads, kv_heads, dim, sequences;
  std::int64_t pages_each, pages_held, page_tokens;  // pages_each: of a sequence, in `pages`
  std::int64_t longest_new, longest;
  // on the device: [sequences + 1], [sequences], [sequences, pages_each]
  const std::int32_t *starts, *lengths, *pages;
  float scale;
  bool codes;  // the cache holds E4M3 codes of keys / key_scale, values / value_scale
  float key_scale, value_scale;  // else 1
};
// Into how many parts a context is cut, so that few sequences fill the device.
int paged_attention_splits(const PagedShape& shape);
// partial: scratch for splits * tokens * heads * (dim + 2) floats, 8-byte aligned; none for 1
// split.
void paged_attention(Type type, const PagedShape& shape, const void* qkv, void* keys, void* values,
                     int splits, float* partial, void* out, cudaStream_t stream);

// Rows of logits of the head, and what becomes of them.
struct HeadRows {
  Type type;            // of the logits
  const void* student;  // [rows, vocabulary] with `stride`, a multiple of 8; 16-byte aligned
  const void* teacher;  // null: none
  std::int64_t rows, vocabulary, stride;
  const std::int64_t* labels;  // [rows], as all below
  const float* weights;
  ops::LossWeights w;
  double* loss;  // weight * loss of each row
  float *kl, *ce, *teacher_ce, *agree;
  // Of the sum of `loss`, with `stride`; null: not wanted; may be `student`.
  void* gradient;
  Type gradient_type;  // bf16 where `type` is
};
void head_rows(const HeadRows& rows, cudaStream_t stream);

// The masters of an optimiser: floats, or the halves of ops::split_master.
struct Masters {
  void* high;         // floats; where there is a low half, BF16
  std::int16_t* low;  // null: none
};
// The moments of an optimiser: floats, or 8-bit codes with a scale for each ops::kMomentBlock.
struct Moments {
  enum Kind { f32, bf16, coded } kind;
  void *m, *v;
  float *m_scales, *v_scales;  // of codes
};
// What one AdamW update has of a tensor. amax: the bits of a float, 0 before, then the largest of
// bf16(master), or of the high halves.
struct AdamWTensor {
  ops::AdamWStep step;
  Type grad_type;
  const void* grad;
  Masters masters;
  Moments moments;
  std::int64_t n;
  std::uint32_t* amax;
};
// As many tensors a launch as its arguments hold. factor null: 1.
void adamw(std::span<const AdamWTensor> tensors, const float* factor, cudaStream_t stream);

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
void weight_amax(Type master_type, const void* master, std::int64_t n, std::uint32_t* amax,
                 cudaStream_t stream);
// As ops::ship_ has it of one tensor; `out` gets what that returns.
struct ShipTensor {
  Type master_type;
  const void* master;
  Type type;
  void* value;
  std::int64_t rows, cols;
  nvfp4::BlockScale rule;
  const float* amax;
  float *global, *out;
};
void ship(std::span<const ShipTensor> tensors, nvfp4::GlobalScale global_rule, cudaStream_t stream);
// As ops::ship_with_scales_ has it, but for the largest magnitude.
struct ScaledTensor {
  Type master_type;
  const void* master;
  Type type;
  void* value;
  std::int64_t rows, cols;
  const float* global;
  const std::uint8_t* scales;
};
void ship_with_scales(const ScaledTensor& t, cudaStream_t stream);

}  // namespace qad::cuda
