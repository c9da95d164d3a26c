// The launchers of what a Mamba-2 mixer computes between its projections (ops/mamba.h), as launch.h
// has them. A document that cu_seqlens does not hold is not seen; a slot out of range makes NaN.
#pragma once

#include "cuda/launch.h"
#include "ops/mamba_scan_kernel.h"

namespace qad::cuda {

// Rows of values that may be columns of a wider matrix: `stride` values apart.
struct Rows {
  const void* data;
  std::int64_t stride;
};
// Flat tokens in documents: document i is [starts[i], starts[i + 1]), int32 on the device.
struct PackedTokens {
  std::int64_t tokens, documents;
  const std::int32_t* starts;
};
// What documents that are read in pieces go on from (ops::StateSlots), int32 on the device.
struct Slots {
  std::int64_t count;
  const std::int32_t *lengths, *slots;
};

constexpr std::int64_t kMostTaps = 8;
struct Convolution {
  Type type;
  PackedTokens in;
  std::int64_t channels, taps;
  Rows x;
  const void *weight, *bias;  // [channels, taps]; [channels] or null
};
void causal_conv(const Convolution& c, void* y, cudaStream_t stream);
// partial [causal_conv_partials, taps + 1, channels] FP32: sums of the taps' gradients, and of the
// bias' behind them, over shares of the tokens.
std::int64_t causal_conv_partials(std::int64_t tokens);
void causal_conv_backward(const Convolution& c, const void* grad, void* dx, float* partial,
                          cudaStream_t stream);
void causal_conv_cached(const Convolution& c, const Slots& slots, void* state, void* y,
                        cudaStream_t stream);

// y, z: rows of groups of columns each `cols / groups` wide. inverse [rows, groups].
struct GatedNorm {
  Type type;
  std::int64_t rows, cols, groups;
  Rows y, z;
  const void* weight;
};
void gated_rms_norm(const GatedNorm& n, float eps, void* out, float* inverse, cudaStream_t stream);
// partial [gated_norm_partials, cols]: sums of the weight's gradient over shares of the rows.
std::int64_t gated_norm_partials(std::int64_t rows);
void gated_rms_norm_backward(const GatedNorm& n, const void* grad, const float* inverse, void* dy,
                             void* dz, float* partial, cudaStream_t stream);

// The scan works on chunks of kScanChunk tokens that begin with each document's first, so a
// document's last one may be cut. What is computed for chunks is in FP32, zero where there is no
// token, and laid out either by heads, [chunks, heads, kScanChunk, dim], or by groups of heads,
// [chunks, groups, kScanChunk, heads / groups * dim].
using ops::kScanChunk;
struct ScanSizes {
  PackedTokens in;
  std::int64_t chunks;  // room for: most that these documents can have
  std::int64_t heads, dim, groups, state;
  const std::int32_t* firsts;  // [documents + 1]: each document's first chunk, then how many in all
};
void scan_chunks(const PackedTokens& in, std::int64_t most, std::int32_t* firsts,
                 cudaStream_t stream);

// The parameters of the scan, [heads] FP32 each, and the limits of a time step.
struct ScanInputs {
  Type type;       // of dt
  const void* dt;  // [tokens, heads]
  const float *dt_bias, *a, *d;
  float least, most;
};
// Of each token of a chunk, [chunks, heads, kScanChunk]: c, the sum of dt A up to it; exp(c); exp
// of what is left of c behind it; its step. whole [chunks, heads]: exp of the chunk's.
struct Decays {
  double* sums;
  float *since, *left, *steps, *whole;
};
void scan_decays(const ScanSizes& s, const ScanInputs& in, const Decays& out, cudaStream_t stream);

// Columns [first, first + heads * dim) of a matrix as chunks: by_heads as they are; by_groups times
// `factor` and `second` ([chunks, heads, kScanChunk]); null: not wanted, or 1.
struct Spread {
  Type type;
  Rows from;
  std::int64_t heads, dim, groups;
  float *by_heads, *by_groups;
  const float *factor, *second;
};
void scan_spread(const ScanSizes& s, const Spread& what, cudaStream_t stream);
// The way back of one layout: [chunks, heads, kScanChunk, dim] into columns.
void scan_collect(const ScanSizes& s, const float* by_heads, std::int64_t heads, std::int64_t dim,
                  Type type, void* to, std::int64_t stride, cudaStream_t stream);

// states [chunks, heads, dim, state]: what each chunk adds becomes what enters it from the chunks
// before it in its document, or, `back`, from those behind it.
void scan_hand_on(const ScanSizes& s, const float* whole, bool back, float* states,
                  cudaStream_t stream);

// m[l, s] = pairs[l, s] exp(c_l - c_s) dt_s for s <= l, else 0. pairs [chunks, groups, kScanChunk,
// kScanChunk], m the same of heads.
void scan_matrix(const ScanSizes& s, const float* pairs, const Decays& decays, float* m,
                 cudaStream_t stream);
// y = mx + exp(c) from_state + d x; mx by heads, from_state by groups.
struct ScanOutput {
  const float *mx, *from_state, *d;
  Type type;
  Rows x;
  void* y;  // [tokens, heads * dim]
};
void scan_output(const ScanSizes& s, const Decays& decays, const ScanOutput& o,
                 cudaStream_t stream);

// From dy x^T in `products` [chunks, heads, kScanChunk, kScanChunk]: m without its dt, C B^T's
// gradient summed over a group's heads in dpairs, and what c has of it in dsums [chunks, heads,
// kScanChunk].
void scan_matrix_backward(const ScanSizes& s, const float* pairs, const float* products,
                          const Decays& decays, float* m, float* dpairs, double* dsums,
                          cudaStream_t stream);
// The rest of the way back: dx into columns, ddt [tokens, heads], and of each chunk and head what
// A's and D's gradients have.
struct ScanBackward {
  const float *x, *dy, *du;            // by heads; du = m^T dy
  const float *from_state, *to_state;  // S0 C and G B, by groups
  const float *entering, *leaving;     // S0 and G, [chunks, heads, dim, state]
  const double* dsums;
  Type type;
  void* dx;
  std::int64_t stride;
  float *ddt, *da, *dd;
};
void scan_finish_backward(const ScanSizes& s, const ScanInputs& in, const Decays& decays,
                          const ScanBackward& b, cudaStream_t stream);

// Token after token from what the slots hold. xbc as ops::mamba_scan has it.
struct ScanSteps {
  Type type;
  PackedTokens in;
  std::int64_t heads, dim, groups, state;
  Rows xbc;
  float* states;  // [slots, heads, dim, state]
  void* y;
};
constexpr std::int64_t kMostState = 256;
void scan_steps(const ScanSteps& s, const ScanInputs& in, const Slots& slots, cudaStream_t stream);

}  // namespace qad::cuda
