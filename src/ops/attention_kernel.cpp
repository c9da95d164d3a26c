// Three small products make up attention: lanes over keys where a row of scores is made, lanes
// over the head's dimension where rows are summed. Head dimensions of 4 and 8 use shorter vectors,
// so that no lane is idle.
#include "ops/attention_kernel.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/simd.h"
#include "ops/softmax_row.h"

namespace qad::ops {
namespace {

constexpr std::int64_t kRows = 8;  // queries of a block: 16 accumulators of 32 registers
constexpr float kLog2E = 1.44269504089f;

std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}

// scores[r][j] = sum over d of a[d][r] * b[d][j], for j < keys, a multiple of key_step().
void scores(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, std::int64_t dim,
            std::int64_t keys, std::int64_t pitch, float* HWY_RESTRICT out) {
  const FloatTag d;
  const std::int64_t lanes = hn::Lanes(d);
  for (std::int64_t j = 0; j < keys; j += 2 * lanes) {
    FloatVec low[kRows], high[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) low[r] = high[r] = hn::Zero(d);
    for (std::int64_t i = 0; i < dim; ++i) {
      const auto b0 = hn::Load(d, b + i * pitch + j), b1 = hn::Load(d, b + i * pitch + j + lanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const auto x = hn::Set(d, a[i * kRows + r]);
        low[r] = hn::MulAdd(x, b0, low[r]);
        high[r] = hn::MulAdd(x, b1, high[r]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      hn::Store(low[r], d, out + r * pitch + j);
      hn::Store(high[r], d, out + r * pitch + j + lanes);
    }
  }
}

// out[r][c] = sum over j < keys of p[r][j] * v[j][c], for Vectors * lanes columns.
template <int Vectors, class D>
HWY_INLINE void weigh_columns(D d, const float* HWY_RESTRICT p, const float* HWY_RESTRICT v,
                              std::int64_t keys, std::int64_t pitch, std::int64_t width,
                              float* HWY_RESTRICT out) {
  const std::int64_t lanes = hn::Lanes(d);
  hn::Vec<D> sums[kRows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int c = 0; c < Vectors; ++c) sums[r][c] = hn::Zero(d);
  for (std::int64_t j = 0; j < keys; ++j) {
    hn::Vec<D> row[Vectors];
#pragma GCC unroll 2
    for (int c = 0; c < Vectors; ++c) row[c] = hn::Load(d, v + j * width + c * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto x = hn::Set(d, p[r * pitch + j]);
#pragma GCC unroll 2
      for (int c = 0; c < Vectors; ++c) sums[r][c] = hn::MulAdd(x, row[c], sums[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int c = 0; c < Vectors; ++c) hn::Store(sums[r][c], d, out + r * width + c * lanes);
}

template <class D>
void weigh(D d, const float* p, const float* v, std::int64_t keys, std::int64_t pitch,
           std::int64_t width, float* out) {
  const std::int64_t lanes = hn::Lanes(d);
  std::int64_t c = 0;
  for (; c + 2 * lanes <= width; c += 2 * lanes)
    weigh_columns<2>(d, p, v + c, keys, pitch, width, out + c);
  if (c < width) weigh_columns<1>(d, p, v + c, keys, pitch, width, out + c);
}

// sums[j][c] += sum over r of p[r][j] * rows[r][c], for j < keys.
template <class D>
void scatter(D d, const float* HWY_RESTRICT p, const float* HWY_RESTRICT rows, std::int64_t keys,
             std::int64_t pitch, std::int64_t width, float* HWY_RESTRICT sums) {
  const std::int64_t lanes = hn::Lanes(d);
  for (std::int64_t c = 0; c < width; c += lanes) {
    hn::Vec<D> row[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) row[r] = hn::Load(d, rows + r * width + c);
    for (std::int64_t j = 0; j < keys; ++j) {
      auto s = hn::Load(d, sums + j * width + c);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) s = hn::MulAdd(hn::Set(d, p[r * pitch + j]), row[r], s);
      hn::Store(s, d, sums + j * width + c);
    }
  }
}

// Row r of a block may look at keys [0, first + r].
void mask(std::int64_t first, std::int64_t keys, std::int64_t pitch, float* s) {
  for (std::int64_t r = 0; r < kRows; ++r) mask_row(first + r + 1, keys, s + r * pitch);
}

// Rows become 2^(s - max), their sums go to `total`, the logarithms of sum 2^s to `lse`.
void softmax(std::int64_t keys, std::int64_t pitch, float* s, float* total, float* lse) {
  for (std::int64_t r = 0; r < kRows; ++r) {
    const RowSum row = softmax_row(keys, s + r * pitch);
    total[r] = row.total;
    lse[r] = row.largest + std::log2(row.total);
  }
}

// p: scores to probabilities by their saved log-sum-exp. dp: gradients of probabilities to those
// of scores, p * (dp - sum(p * dp)).
void softmax_backward(const float* lse, std::int64_t keys, std::int64_t pitch, float* p,
                      float* dp) {
  const FloatTag d;
  const std::int64_t lanes = hn::Lanes(d);
  for (std::int64_t r = 0; r < kRows; ++r) {
    float *a = p + r * pitch, *b = dp + r * pitch;
    const auto m = hn::Set(d, lse[r]);
    auto d0 = hn::Zero(d), d1 = hn::Zero(d);
    for (std::int64_t j = 0; j < keys; j += 2 * lanes) {
      const auto p0 = exp2(d, hn::Sub(hn::Load(d, a + j), m));
      const auto p1 = exp2(d, hn::Sub(hn::Load(d, a + j + lanes), m));
      hn::Store(p0, d, a + j);
      hn::Store(p1, d, a + j + lanes);
      d0 = hn::MulAdd(p0, hn::Load(d, b + j), d0);
      d1 = hn::MulAdd(p1, hn::Load(d, b + j + lanes), d1);
    }
    const auto delta = hn::Set(d, sum(d, hn::Add(d0, d1)));
    for (std::int64_t j = 0; j < keys; j += lanes)
      hn::Store(hn::Mul(hn::Load(d, a + j), hn::Sub(hn::Load(d, b + j), delta)), d, b + j);
  }
}

// to[d][t] = factor * from[t][d], rows of `pitch`; columns beyond `tokens` are zero.
void transpose(const float* from, std::int64_t stride, std::int64_t tokens, std::int64_t dim,
               float factor, std::int64_t pitch, float* to) {
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t i = 0; i < dim; ++i) to[i * pitch + t] = factor * from[t * stride + i];
  for (std::int64_t i = 0; i < dim; ++i)
    std::fill(to + i * pitch + tokens, to + (i + 1) * pitch, 0.0f);
}

// Rows of `stride` to rows of `width`, padded with zeros to `rows`.
void gather(const float* from, std::int64_t stride, std::int64_t tokens, std::int64_t dim,
            std::int64_t rows, std::int64_t width, float* to) {
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::memcpy(to + t * width, from + t * stride, dim * sizeof(float));
    std::fill(to + t * width + dim, to + (t + 1) * width, 0.0f);
  }
  std::fill(to + tokens * width, to + rows * width, 0.0f);
}

// Rows of `width` back to rows of `stride`, row t times factors[t * factor_step].
void spread(const float* from, std::int64_t width, std::int64_t tokens, std::int64_t dim,
            const float* factors, std::int64_t factor_step, std::int64_t stride, float* to) {
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t i = 0; i < dim; ++i)
      to[t * stride + i] = factors[t * factor_step] * from[t * width + i];
}

// Hands out the scratch in pieces that keep vectors aligned.
struct Pieces {
  float* next;
  float* take(std::int64_t floats) {
    float* piece = next;
    next += round_up(floats, 16);
    return piece;
  }
};

template <class D>
void forward(D d, const AttentionHeads& in, float* out, std::int64_t out_stride, float* lse,
             std::int64_t lse_stride, float* scratch) {
  const std::int64_t pitch = round_up(in.tokens, key_step());
  const std::int64_t width = round_up(in.dim, hn::Lanes(d));
  Pieces pieces{scratch};
  float *kt = pieces.take(in.dim * pitch), *v = pieces.take(in.tokens * width);
  float *s = pieces.take(kRows * pitch), *qt = pieces.take(in.dim * kRows);
  float* tile = pieces.take(kRows * width);
  transpose(in.k, in.stride, in.tokens, in.dim, 1.0f, pitch, kt);
  gather(in.v, in.stride, in.tokens, in.dim, in.tokens, width, v);
  for (std::int64_t h = 0; h < in.group; ++h)
    for (std::int64_t i = 0; i < in.tokens; i += kRows) {
      const std::int64_t rows = std::min(kRows, in.tokens - i), seen = i + rows;
      const std::int64_t keys = round_up(seen, key_step());
      transpose(in.q + i * in.stride + h * in.dim, in.stride, rows, in.dim, in.scale * kLog2E,
                kRows, qt);
      scores(qt, kt, in.dim, keys, pitch, s);
      mask(i, keys, pitch, s);
      float total[kRows], log_sum[kRows];
      softmax(keys, pitch, s, total, log_sum);
      std::memcpy(lse + h * lse_stride + i, log_sum, rows * sizeof(float));
      weigh(d, s, v, seen, pitch, width, tile);
      for (float& t : total) t = 1.0f / t;
      spread(tile, width, rows, in.dim, total, 1, out_stride, out + i * out_stride + h * in.dim);
    }
}

template <class D>
void backward(D d, const AttentionHeads& in, const float* grad, std::int64_t grad_stride,
              const float* lse, std::int64_t lse_stride, float* dq, float* dk, float* dv,
              float* scratch) {
  const std::int64_t pitch = round_up(in.tokens, key_step());
  const std::int64_t width = round_up(in.dim, hn::Lanes(d)), whole = in.tokens * width;
  Pieces pieces{scratch};
  float *kt = pieces.take(in.dim * pitch), *vt = pieces.take(in.dim * pitch);
  float *k = pieces.take(whole), *k_sum = pieces.take(whole), *v_sum = pieces.take(whole);
  float *p = pieces.take(kRows * pitch), *ds = pieces.take(kRows * pitch);
  float *qt = pieces.take(in.dim * kRows), *gt = pieces.take(in.dim * kRows);
  float *q = pieces.take(kRows * width), *g = pieces.take(kRows * width);
  float* tile = pieces.take(kRows * width);
  transpose(in.k, in.stride, in.tokens, in.dim, 1.0f, pitch, kt);
  transpose(in.v, in.stride, in.tokens, in.dim, 1.0f, pitch, vt);
  gather(in.k, in.stride, in.tokens, in.dim, in.tokens, width, k);
  std::fill_n(k_sum, whole, 0.0f);
  std::fill_n(v_sum, whole, 0.0f);
  const float one = 1.0f;
  for (std::int64_t h = 0; h < in.group; ++h)
    for (std::int64_t i = 0; i < in.tokens; i += kRows) {
      const std::int64_t rows = std::min(kRows, in.tokens - i), seen = i + rows;
      const std::int64_t keys = round_up(seen, key_step());
      const float* q_rows = in.q + i * in.stride + h * in.dim;
      const float* g_rows = grad + i * grad_stride + h * in.dim;
      transpose(q_rows, in.stride, rows, in.dim, in.scale * kLog2E, kRows, qt);
      transpose(g_rows, grad_stride, rows, in.dim, 1.0f, kRows, gt);
      gather(q_rows, in.stride, rows, in.dim, kRows, width, q);
      gather(g_rows, grad_stride, rows, in.dim, kRows, width, g);
      scores(qt, kt, in.dim, keys, pitch, p);
      mask(i, keys, pitch, p);
      scores(gt, vt, in.dim, keys, pitch, ds);
      float log_sum[kRows] = {};  // rows beyond the document: zero gradients, any finite value
      std::memcpy(log_sum, lse + h * lse_stride + i, rows * sizeof(float));
      softmax_backward(log_sum, keys, pitch, p, ds);
      weigh(d, ds, k, seen, pitch, width, tile);
      spread(tile, width, rows, in.dim, &in.scale, 0, in.stride, dq + i * in.stride + h * in.dim);
      scatter(d, ds, q, seen, pitch, width, k_sum);
      scatter(d, p, g, seen, pitch, width, v_sum);
    }
  spread(k_sum, width, in.tokens, in.dim, &in.scale, 0, in.stride, dk);
  spread(v_sum, width, in.tokens, in.dim, &one, 0, in.stride, dv);
}

// The vector for the head's dimension: the shortest that holds it, at most a whole register.
template <class F>
void with_tag(std::int64_t dim, F&& f) {
  if (dim <= 4)
    f(hn::CappedTag<float, 4>());
  else if (dim <= 8)
    f(hn::CappedTag<float, 8>());
  else
    f(FloatTag());
}

}  // namespace

std::int64_t attention_scratch(std::int64_t tokens, std::int64_t dim) {
  const std::int64_t pitch = round_up(tokens, 64), width = round_up(dim, 16);
  return 2 * dim * pitch + 3 * tokens * width + 2 * kRows * pitch + 5 * kRows * width + 256;
}

void attention_forward(const AttentionHeads& in, float* out, std::int64_t out_stride, float* lse,
                       std::int64_t lse_stride, float* scratch) {
  with_tag(in.dim, [&](auto d) { forward(d, in, out, out_stride, lse, lse_stride, scratch); });
}

void attention_backward(const AttentionHeads& in, const float* grad, std::int64_t grad_stride,
                        const float* lse, std::int64_t lse_stride, float* dq, float* dk, float* dv,
                        float* scratch) {
  with_tag(in.dim, [&](auto d) {
    backward(d, in, grad, grad_stride, lse, lse_stride, dq, dk, dv, scratch);
  });
}

}  // namespace qad::ops
