// Dao and Gu 2024, section 6: within a chunk of tokens the scan is a lower triangular matrix,
//   M[l, s] = (C_l . B_s) exp(c_l - c_s) dt_s,  c the sum of dt A up to a token,
// times x; between chunks a state is handed on. A document's chunks count from its first token, so
// what is beside it changes no bit. Sums c are double: a difference of two large ones is small.
#include "ops/mamba_scan_kernel.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/matmul.h"
#include "ops/simd.h"

namespace qad::ops {
namespace {

constexpr std::int64_t kChunk = kScanChunk;

std::int64_t round_up(std::int64_t n) {
  return (n + 15) / 16 * 16;
}

// Takes pieces of the scratch that a caller gave.
struct Scratch {
  float* next;
  float* take(std::int64_t floats) {
    float* p = next;
    next += round_up(floats);
    return p;
  }
};

struct Chunk {
  std::int64_t first, tokens;
  const float *x, *b, *c, *step;  // of its first token
};

std::int64_t chunks_of(const ScanHeads& in) {
  return (in.tokens + kChunk - 1) / kChunk;
}
Chunk chunk_of(const ScanHeads& in, std::int64_t i) {
  const std::int64_t first = i * kChunk;
  return {first,
          std::min(kChunk, in.tokens - first),
          in.x + first * in.stride,
          in.b + first * in.stride,
          in.c + first * in.stride,
          in.step + first * in.step_stride};
}

// to = from * by
void scale_row(const float* from, float by, std::int64_t n, float* to) {
  const FloatTag d;
  const auto factor = hn::Set(d, by);
  for_lanes(d, n, [&](std::int64_t i, std::int64_t lanes) {
    store(d, hn::Mul(load(d, from + i, lanes), factor), to + i, lanes);
  });
}
// to += from * by
void add_row(const float* from, float by, std::int64_t n, float* to) {
  const FloatTag d;
  const auto factor = hn::Set(d, by);
  for_lanes(d, n, [&](std::int64_t i, std::int64_t lanes) {
    store(d, hn::MulAdd(load(d, from + i, lanes), factor, load(d, to + i, lanes)), to + i, lanes);
  });
}
float dot(const float* a, const float* b, std::int64_t n) {
  const FloatTag d;
  auto total = hn::Zero(d);
  for_lanes(d, n, [&](std::int64_t i, std::int64_t lanes) {
    total = hn::MulAdd(load(d, a + i, lanes), load(d, b + i, lanes), total);
  });
  return sum(d, total);
}

// How a head's state decays in a chunk: c_l, and exp of what is left of it.
struct Decay {
  double sums[kChunk];   // c_l, token l's own step included
  float since[kChunk];   // exp(c_l): of the state that enters, at token l
  float to_end[kChunk];  // exp(c_end - c_l)
  float steps[kChunk];   // dt_l
  float whole;           // exp(c_end)
};

void decay_of(const ScanHeads& in, const Chunk& chunk, std::int64_t head, Decay& out) {
  double sum = 0;
  for (std::int64_t l = 0; l < chunk.tokens; ++l) {
    out.steps[l] = chunk.step[l * in.step_stride + head];
    sum += static_cast<double>(out.steps[l]) * static_cast<double>(in.a[head]);
    out.sums[l] = sum;
  }
  for (std::int64_t l = 0; l < chunk.tokens; ++l) {
    out.since[l] = std::exp(static_cast<float>(out.sums[l]));
    out.to_end[l] = std::exp(static_cast<float>(sum - out.sums[l]));
  }
  out.whole = std::exp(static_cast<float>(sum));
}

// to[s] = exp(c_l - c_s) for s <= l, 0 up to the chunk's end.
void decay_row(const Decay& decay, std::int64_t l, std::int64_t tokens, float* to) {
  for (std::int64_t s = 0; s <= l; ++s) to[s] = static_cast<float>(decay.sums[l] - decay.sums[s]);
  const FloatTag d;
  for_lanes(d, l + 1, [&](std::int64_t i, std::int64_t n) {
    store(d, exp(d, load(d, to + i, n)), to + i, n);
  });
  std::fill(to + l + 1, to + tokens, 0.0f);
}

// The state that leaves a chunk, [heads dim, state], from the one that enters (null: 0). xw:
// [kChunk, heads dim].
void next_state(const ScanHeads& in, const Chunk& chunk, const float* entering, float* leaving,
                float* xw) {
  const std::int64_t wide = in.heads * in.dim;
  Decay decay;
  for (std::int64_t h = 0; h < in.heads; ++h) {
    decay_of(in, chunk, h, decay);
    for (std::int64_t s = 0; s < chunk.tokens; ++s)
      scale_row(chunk.x + s * in.stride + h * in.dim, decay.to_end[s] * decay.steps[s], in.dim,
                xw + s * wide + h * in.dim);
    if (entering != nullptr)
      scale_row(entering + h * in.dim * in.state, decay.whole, in.dim * in.state,
                leaving + h * in.dim * in.state);
  }
  matmul({xw, wide, true}, {chunk.b, in.stride}, leaving, in.state, wide, in.state, chunk.tokens,
         entering ? Addend{leaving, in.state} : Addend{});
}

// C_l . B_s, rows kChunk apart.
void pair_products(const ScanHeads& in, const Chunk& chunk, float* to) {
  matmul({chunk.c, in.stride}, {chunk.b, in.stride, true}, to, kChunk, chunk.tokens, chunk.tokens,
         in.state);
}

// What the way back through a chunk works with. G is the gradient of the state that leaves it.
struct Back {
  float *pairs, *dpairs;         // C B^T and its gradient, summed over heads
  float *m, *products, *decays;  // of a head, [kChunk, kChunk]
  float *from_state, *to_state;  // S0 C_l and G B_s, [kChunk, heads dim]
  float* du;                     // gradient of dt x; then dt x exp(c_end - c)
  float* dy_since;               // dy_l exp(c_l)
  float* leaving;                // G, [heads dim, state]
};

// From dy x^T in `products`: M without its dt in `m`, C B^T's gradient added up, and that of c.
void back_through_pairs(const Decay& decay, std::int64_t tokens, const Back& back, double* dsums) {
  for (std::int64_t l = 0; l < tokens; ++l) {
    float *row = back.m + l * kChunk, *factor = back.decays + l * kChunk;
    const float *pair = back.pairs + l * kChunk, *product = back.products + l * kChunk;
    float* dpair = back.dpairs + l * kChunk;
    decay_row(decay, l, tokens, factor);
    for (std::int64_t s = 0; s < tokens; ++s) {
      const float e = product[s] * decay.steps[s] * factor[s];
      row[s] = pair[s] * factor[s];
      dpair[s] += e;
      factor[s] = e * pair[s];
    }
    double total = 0;
    for (std::int64_t s = 0; s < l; ++s) {  // of s = l nothing is left: c_l - c_l
      const auto z = static_cast<double>(factor[s]);
      total += z;
      dsums[s] -= z;
    }
    dsums[l] += total;
  }
}

// A head's gradients but for its part in those of B and C, for which it leaves du and dy_since.
// s0: the state that enters, or null; last: nothing leaves. Adds to out's da and dd.
void back_through_head(const ScanHeads& in, const Chunk& chunk, std::int64_t head, const float* s0,
                       bool last, const float* grad, std::int64_t grad_stride,
                       const ScanGradients& out, const Decay& decay, const Back& back) {
  const std::int64_t q = chunk.tokens, dim = in.dim, wide = in.heads * dim;
  const float *x = chunk.x + head * dim, *dy = grad + chunk.first * grad_stride + head * dim;
  float* du = back.du + head * dim;
  // Of c. What two tokens have of each other's decay must cancel where neither is before the step
  // in question, hence double: a step's own gradient may be smaller by e^100.
  double dsums[kChunk] = {};
  matmul({dy, grad_stride}, {x, in.stride, true}, back.products, kChunk, q, q, dim);
  back_through_pairs(decay, q, back, dsums);
  matmul({back.m, kChunk, true}, {dy, grad_stride}, du, wide, q, dim, q);
  const std::int64_t state = head * dim * in.state;
  double dend = 0;
  if (s0 && !last)
    dend = static_cast<double>(decay.whole) *
           static_cast<double>(dot(back.leaving + state, s0 + state, dim * in.state));
  for (std::int64_t l = 0; l < q; ++l) {
    if (!last) {
      const float* gb = back.to_state + l * wide + head * dim;
      const double v =
          static_cast<double>(decay.to_end[l] * decay.steps[l] * dot(x + l * in.stride, gb, dim));
      dsums[l] -= v;
      dend += v;
      add_row(gb, decay.to_end[l], dim, du + l * wide);
    }
    if (s0)
      dsums[l] += static_cast<double>(
          decay.since[l] * dot(dy + l * grad_stride, back.from_state + l * wide + head * dim, dim));
  }
  dsums[q - 1] += dend;
  double da = 0, tail = 0;  // tail, of dt A: what all later c have of it
  float dd = 0;
  for (std::int64_t l = q - 1; l >= 0; --l) {
    const float *xl = x + l * in.stride, *dyl = dy + l * grad_stride;
    float* dul = du + l * wide;
    tail += dsums[l];
    out.dstep[(chunk.first + l) * in.step_stride + head] =
        dot(dul, xl, dim) + in.a[head] * static_cast<float>(tail);
    da += static_cast<double>(decay.steps[l]) * tail;
    dd += dot(dyl, xl, dim);
    float* dx = out.dx + (chunk.first + l) * out.stride + head * dim;
    scale_row(dul, decay.steps[l], dim, dx);
    add_row(dyl, in.d[head], dim, dx);
    // Done with du: what the states' gradients need takes its place.
    scale_row(xl, decay.to_end[l] * decay.steps[l], dim, dul);
    scale_row(dyl, decay.since[l], dim, back.dy_since + l * wide + head * dim);
  }
  out.da[head] += static_cast<float>(da);
  out.dd[head] += dd;
}

}  // namespace

std::int64_t scan_scratch(const ScanHeads& s) {
  const std::int64_t wide = s.heads * s.dim;
  return 2 * round_up(kChunk * kChunk) + round_up(kChunk * wide) + round_up(wide * s.state);
}

void scan_forward(const ScanHeads& in, float* y, std::int64_t y_stride, float* scratch) {
  const std::int64_t wide = in.heads * in.dim, chunks = chunks_of(in);
  Scratch room{scratch};
  float* pairs = room.take(kChunk * kChunk);
  float* m = room.take(kChunk * kChunk);
  float* rows = room.take(kChunk * wide);
  float* state = room.take(wide * in.state);
  Decay decay;
  for (std::int64_t i = 0; i < chunks; ++i) {
    const Chunk chunk = chunk_of(in, i);
    float* out = y + chunk.first * y_stride;
    pair_products(in, chunk, pairs);
    if (i > 0)  // S C for every token, from the state that enters
      matmul({chunk.c, in.stride}, {state, in.state, true}, rows, wide, chunk.tokens, wide,
             in.state);
    for (std::int64_t h = 0; h < in.heads; ++h) {
      decay_of(in, chunk, h, decay);
      for (std::int64_t l = 0; l < chunk.tokens; ++l) {
        float* row = m + l * kChunk;
        decay_row(decay, l, chunk.tokens, row);
        for (std::int64_t s = 0; s <= l; ++s) row[s] *= pairs[l * kChunk + s] * decay.steps[s];
        float* to = out + l * y_stride + h * in.dim;
        scale_row(chunk.x + l * in.stride + h * in.dim, in.d[h], in.dim, to);
        if (i > 0) add_row(rows + l * wide + h * in.dim, decay.since[l], in.dim, to);
      }
      matmul({m, kChunk}, {chunk.x + h * in.dim, in.stride}, out + h * in.dim, y_stride,
             chunk.tokens, in.dim, chunk.tokens, {out + h * in.dim, y_stride});
    }
    if (i + 1 < chunks) next_state(in, chunk, i > 0 ? state : nullptr, state, rows);
  }
}

std::int64_t scan_backward_scratch(const ScanHeads& s) {
  const std::int64_t wide = s.heads * s.dim;
  return 5 * round_up(kChunk * kChunk) + 4 * round_up(kChunk * wide) +
         (chunks_of(s) + 1) * round_up(wide * s.state);
}

// From the last chunk to the first, with G the gradient of the state that leaves a chunk and S0 the
// state that enters it, which is computed again. With u = dt x, M' = M without its dt, dM' = dy
// u^T:
//   d(C B^T) = sum over heads of dM' exp(c_l - c_s),  du = M'^T dy + exp(c_end - c) G B,
//   dB = d(C B^T)^T C + exp(c_end - c) u G,  dC = d(C B^T) B + exp(c) dy S0,
//   G before = exp(c_end) G + sum exp(c_l) dy_l C_l^T;
// c_l has what M's row l times dM' sums to, less its column l, and its parts in the states'
// factors; a token's dt A has all that later c have.
void scan_backward(const ScanHeads& in, const float* grad, std::int64_t grad_stride,
                   const ScanGradients& out, float* scratch) {
  const std::int64_t wide = in.heads * in.dim, chunks = chunks_of(in), square = kChunk * kChunk;
  Scratch room{scratch};
  const Back back{.pairs = room.take(square),
                  .dpairs = room.take(square),
                  .m = room.take(square),
                  .products = room.take(square),
                  .decays = room.take(square),
                  .from_state = room.take(kChunk * wide),
                  .to_state = room.take(kChunk * wide),
                  .du = room.take(kChunk * wide),
                  .dy_since = room.take(kChunk * wide),
                  .leaving = room.take(wide * in.state)};
  // States that enter the chunks but the first.
  std::vector<float*> entering(static_cast<std::size_t>(chunks), nullptr);
  for (std::int64_t i = 0; i + 1 < chunks; ++i) {
    float* next = room.take(wide * in.state);
    next_state(in, chunk_of(in, i), entering[i], next, back.du);
    entering[i + 1] = next;
  }
  std::fill_n(out.da, in.heads, 0.0f);
  std::fill_n(out.dd, in.heads, 0.0f);
  std::vector<float> wholes(static_cast<std::size_t>(in.heads));  // decays of the chunk's states
  Decay decay;
  for (std::int64_t i = chunks - 1; i >= 0; --i) {
    const Chunk chunk = chunk_of(in, i);
    const std::int64_t q = chunk.tokens, n = in.state;
    const bool last = i + 1 == chunks;
    const float* s0 = entering[i];
    const Matrix b{chunk.b, in.stride}, c{chunk.c, in.stride};
    pair_products(in, chunk, back.pairs);
    std::fill_n(back.dpairs, square, 0.0f);
    if (s0) matmul(c, {s0, n, true}, back.from_state, wide, q, wide, n);
    if (!last) matmul(b, {back.leaving, n, true}, back.to_state, wide, q, wide, n);
    for (std::int64_t h = 0; h < in.heads; ++h) {
      decay_of(in, chunk, h, decay);
      back_through_head(in, chunk, h, s0, last, grad, grad_stride, out, decay, back);
      wholes[static_cast<std::size_t>(h)] = decay.whole;
    }
    const std::int64_t stride = out.stride;
    float *db = out.db + chunk.first * stride, *dc = out.dc + chunk.first * stride;
    matmul({back.dpairs, kChunk, true}, c, db, stride, q, n, q);
    matmul({back.dpairs, kChunk}, b, dc, stride, q, n, q);
    if (!last) matmul({back.du, wide}, {back.leaving, n}, db, stride, q, n, wide, {db, stride});
    if (!s0) continue;
    matmul({back.dy_since, wide}, {s0, n}, dc, stride, q, n, wide, {dc, stride});
    for (std::int64_t h = 0; h < in.heads && !last; ++h) {
      float* of_head = back.leaving + h * in.dim * n;
      scale_row(of_head, wholes[static_cast<std::size_t>(h)], in.dim * n, of_head);
    }
    matmul({back.dy_since, wide, true}, c, back.leaving, n, wide, n, q,
           last ? Addend{} : Addend{back.leaving, n});
  }
}

void scan_steps(const ScanHeads& in, float* states, float* y, std::int64_t y_stride) {
  const FloatTag d;
  for (std::int64_t t = 0; t < in.tokens; ++t) {
    const float *b = in.b + t * in.stride, *c = in.c + t * in.stride;
    for (std::int64_t h = 0; h < in.heads; ++h) {
      const float* x = in.x + t * in.stride + h * in.dim;
      const float step = in.step[t * in.step_stride + h];
      const auto decay = hn::Set(d, std::exp(step * in.a[h]));
      float* to = y + t * y_stride + h * in.dim;
      for (std::int64_t p = 0; p < in.dim; ++p) {
        float* row = states + (h * in.dim + p) * in.state;
        const auto u = hn::Set(d, step * x[p]);
        auto total = hn::Zero(d);
        for_lanes(d, in.state, [&](std::int64_t i, std::int64_t n) {
          const auto kept = hn::Mul(decay, load(d, row + i, n));
          const auto next = hn::MulAdd(u, load(d, b + i, n), kept);
          total = hn::MulAdd(next, load(d, c + i, n), total);
          store(d, next, row + i, n);
        });
        to[p] = sum(d, total) + in.d[h] * x[p];
      }
    }
  }
}

}  // namespace qad::ops
