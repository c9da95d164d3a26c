// Attention of some new tokens of a sequence and one key-value head over a paged cache, on one
// core.
#pragma once

#include <cstdint>

namespace qad::ops {

struct PagedHeads {
  // New token i's vector of head h of the group: at q + i * q_stride + h * dim.
  const float* q;
  std::int64_t q_stride, tokens, group, dim;
  std::int64_t past;  // tokens of the sequence before the first of these
  // Token t's key and value: at element (pages[t / page_tokens] * page_tokens + t % page_tokens) *
  // kv_stride of keys and values: floats or, with `e4m3`, codes to be multiplied by the scales.
  const void *keys, *values;
  std::int64_t kv_stride;
  bool e4m3;
  float key_scale, value_scale;
  const std::int32_t* pages;
  std::int64_t page_tokens;
  float scale;
  std::int64_t seen() const { return past + tokens; }
};

// Floats of aligned scratch that paged_attention_heads needs for so many new tokens of a sequence
// of that length.
std::int64_t paged_attention_scratch(std::int64_t tokens, std::int64_t group, std::int64_t seen,
                                     std::int64_t dim);

// out: new token i's vector of head h at out + i * out_stride + h * dim.
void paged_attention_heads(const PagedHeads& in, float* out, std::int64_t out_stride,
                           float* scratch);

}  // namespace qad::ops
