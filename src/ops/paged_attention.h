// Attention for decoding many sequences at once over a cache of keys and values in pages (Kwon et
// al., Efficient Memory Management for Large Language Model Serving with PagedAttention,
// arXiv 2309.06180). FP32 on a CPU, FP32 or BF16 on a GPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace qad::ops {

// keys and values of one layer: [pages, page_tokens, kv_heads, D], contiguous, of qkv's type; or
// bytes, E4M3 codes of keys / key_scale and values / value_scale (nearest even, saturating at 448),
// which are read as code * scale, the new tokens' own too. Without codes the scales are 1.
// Attention of the new tokens of several sequences, flat one behind the other, over all that is
// cached of each. First the new tokens' keys and values are stored in the pages, then query i of a
// sequence sees every token of it up to its own.
//
// qkv [T, heads + 2 kv_heads, D] (rotated), as ops::attention takes it. starts: int32 [S + 1],
// where each sequence's new tokens begin in T, rising from 0 to T. lengths: int32 [S], tokens of
// each sequence with the new ones. pages: int32 [S, P]: the pages of each in order; token t of
// sequence s is in page pages[s][t / page_tokens] at place t % page_tokens; entries beyond a
// sequence's length are not looked at. No two sequences may write one place (pages of a shared
// prefix are only read). All on qkv's device.
//
// longest_new, longest: what the host knows of starts and lengths (upper bounds). Returns
// [T, heads * D]. No gradient: an error where one would be recorded.
//
// A CPU checks the integers, and there a query's result has the same bits whatever is beside it in
// the batch, however its sequence is cut into pages and calls, on any number of threads. A GPU
// cannot look without waiting: a query whose sequence reads a page that does not exist is NaN.
at::Tensor paged_attention(const at::Tensor& qkv, const at::Tensor& keys, const at::Tensor& values,
                           const at::Tensor& starts, const at::Tensor& lengths,
                           const at::Tensor& pages, std::int64_t longest_new, std::int64_t longest,
                           std::int64_t heads, std::int64_t kv_heads, double scale,
                           double key_scale = 1, double value_scale = 1);

}  // namespace qad::ops
