// Each sum of a tile stays in its register from the first term to the last; a term costs one load
// of b for kTileRows multiplications and one broadcast of a for kTileVectors.
#include "ops/matmul_kernel.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

namespace qad::ops {
namespace {

constexpr FloatTag d;
constexpr std::int64_t kRowsAhead = 8;  // fetched into the second cache while rows are copied

// kAdjacent: the rows of a are neighbours in memory (a_row is 1), as they are in a transposed one.
template <int kRows, int kVectors, bool kAdjacent>
void tile_of(const Tile& t, std::int64_t last_lanes) {
  const std::int64_t a_row = kAdjacent ? 1 : t.a_row, a_step = kAdjacent ? t.a_step : 1;
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v)  // for writing: lines of c come while the sums are made
      __builtin_prefetch(t.c + r * t.c_stride + v * kLanes, 1);
  FloatVec sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
  const float *a = t.a, *b = t.b;
  const std::int64_t b_step = t.b_step;
#pragma GCC unroll 2
  for (std::int64_t k = t.depth; k > 0; --k) {
    FloatVec columns[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) columns[v] = hn::LoadU(d, b + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const FloatVec factor = hn::Set(d, a[r * a_row]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(factor, columns[v], sums[r][v]);
    }
    if constexpr (kAdjacent) __builtin_prefetch(a + t.a_ahead, 0, 2);
    a += a_step;
    b += b_step;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t lanes = v + 1 < kVectors ? kLanes : last_lanes, at = v * kLanes;
      FloatVec sum = sums[r][v];
      if (t.addend.data)
        sum = hn::Add(load(d, t.addend.data + r * t.addend.stride + at, lanes), sum);
      store(d, sum, t.c + r * t.c_stride + at, lanes);
    }
}

using TileFunction = void (*)(const Tile&, std::int64_t);

// Functions for 1 to kTileRows rows, then for the next number of vectors.
template <bool kAdjacent, int... kSizes>
constexpr auto tile_functions(std::integer_sequence<int, kSizes...>) {
  return std::array{&tile_of<kSizes % kTileRows + 1, kSizes / kTileRows + 1, kAdjacent>...};
}
template <bool kAdjacent>
constexpr auto kTileFunctions =
    tile_functions<kAdjacent>(std::make_integer_sequence<int, kTileRows * kTileVectors>());

// Runs of four floats, from rows four apart, as one vector.
template <class D>
HWY_INLINE hn::Vec<D> load_fours(D tag, const float* p, std::int64_t stride) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    return hn::LoadU(tag, p);
  } else {
    const hn::Half<D> half;
    return hn::Combine(
        tag, load_fours(half, p + static_cast<std::int64_t>(hn::MaxLanes(half)) * stride, stride),
        load_fours(half, p, stride));
  }
}

// kLanes rows of `depth` elements become depth vectors, `width` apart.
void transpose_vector(const float* b, std::int64_t stride, std::int64_t depth, std::int64_t width,
                      float* to) {
  std::int64_t k = 0;
  for (; k + 4 <= depth; k += 4, to += 4 * width) {
    if (k % kLine == 0)  // the rows of the next vector
      for (int n = 0; n < kLanes; ++n) __builtin_prefetch(b + (kLanes + n) * stride + k, 0, 2);
    // Vector i has four terms of rows i, 4 + i, 8 + i...: transposing each four by four is all.
    const FloatVec r0 = load_fours(d, b + k, stride), r1 = load_fours(d, b + stride + k, stride),
                   r2 = load_fours(d, b + 2 * stride + k, stride),
                   r3 = load_fours(d, b + 3 * stride + k, stride);
    const FloatVec low02 = hn::InterleaveLower(d, r0, r2), high02 = hn::InterleaveUpper(d, r0, r2),
                   low13 = hn::InterleaveLower(d, r1, r3), high13 = hn::InterleaveUpper(d, r1, r3);
    hn::StoreU(hn::InterleaveLower(d, low02, low13), d, to);
    hn::StoreU(hn::InterleaveUpper(d, low02, low13), d, to + width);
    hn::StoreU(hn::InterleaveLower(d, high02, high13), d, to + 2 * width);
    hn::StoreU(hn::InterleaveUpper(d, high02, high13), d, to + 3 * width);
  }
  for (; k < depth; ++k, to += width)
    for (int n = 0; n < kLanes; ++n) to[n] = b[n * stride + k];
}

// Whole rows one after another, as memory likes to be read.
void pack_rows(const Matrix& b, std::int64_t depth, std::int64_t columns, float* to) {
  const std::int64_t whole = columns / kPanel * kPanel, width = whole_vectors(columns - whole);
  for (std::int64_t k = 0; k < depth; ++k) {
    const float* row = b.data + k * b.stride;
    for (std::int64_t n = 0; n < columns; n += kLine)
      __builtin_prefetch(row + kRowsAhead * b.stride + n, 0, 2);
    for (std::int64_t n = 0; n < whole; n += kPanel)
      for (std::int64_t v = n; v < n + kPanel; v += kLanes)
        hn::StoreU(hn::LoadU(d, row + v), d, to + n * depth + k * kPanel + v - n);
    for (std::int64_t n = whole; n < columns; n += kLanes)
      hn::StoreU(load(d, row + n, std::min<std::int64_t>(kLanes, columns - n)), d,
                 to + whole * depth + k * width + n - whole);
  }
}

void pack_transposed(const Matrix& b, std::int64_t depth, std::int64_t columns, float* to) {
  for (std::int64_t n = 0; n < columns; n += kLanes) {
    const std::int64_t panel = n / kPanel * kPanel;
    const std::int64_t width = whole_vectors(std::min<std::int64_t>(kPanel, columns - panel));
    const float* rows = b.data + n * b.stride;
    float* column = to + panel * depth + n - panel;
    if (n + kLanes <= columns) {
      transpose_vector(rows, b.stride, depth, width, column);
      continue;
    }
    for (std::int64_t k = 0; k < depth; ++k)
      for (std::int64_t i = 0; i < kLanes; ++i)
        column[k * width + i] = n + i < columns ? rows[i * b.stride + k] : 0.0f;
  }
}

}  // namespace

void multiply_tile(const Tile& tile, std::int64_t rows, std::int64_t columns) {
  const std::int64_t vectors = whole_vectors(columns) / kLanes;
  const auto& functions = tile.a_step == 1 ? kTileFunctions<false> : kTileFunctions<true>;
  functions[(vectors - 1) * kTileRows + rows - 1](tile, columns - (vectors - 1) * kLanes);
}

void pack_panels(const Matrix& b, std::int64_t depth, std::int64_t columns, float* to) {
  (b.transposed ? pack_transposed : pack_rows)(b, depth, columns, to);
}

}  // namespace qad::ops
