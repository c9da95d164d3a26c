// Inner loops of matmul: a tile of the product in registers, and the copy of an operand into the
// order in which tiles read it.
#pragma once

#include "ops/matmul.h"
#include "ops/simd.h"

namespace qad::ops {

// A tile is kTileRows by kTileVectors vectors: its sums fill three quarters of the registers.
constexpr int kTileRows = 6;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(FloatTag()));
constexpr int kTileVectors = kLanes >= 16 ? 4 : 2;
constexpr int kPanel = kTileVectors * kLanes;
constexpr std::int64_t kLine = 64 / sizeof(float);  // elements that memory moves at once

// Columns rounded up to whole vectors.
constexpr std::int64_t whole_vectors(std::int64_t columns) {
  return (columns + kLanes - 1) / kLanes * kLanes;
}

struct Tile {
  const float* a;  // row r, term k: a[r * a_row + k * a_step]
  std::int64_t a_row, a_step;
  std::int64_t a_ahead;  // what lies so far after a is fetched into the second cache, if a_row is 1
  const float* b;        // term k: the tile's columns from b[k * b_step]
  std::int64_t b_step;
  std::int64_t depth;  // terms of each sum
  float* c;
  std::int64_t c_stride;
  Addend addend;
};

// A tile of `rows` <= kTileRows by `columns` <= kPanel; b must be readable to whole vectors.
void multiply_tile(const Tile& tile, std::int64_t rows, std::int64_t columns);

// b's rows [0, depth) of its columns [0, columns) as panels of kPanel columns, the last narrower
// but of whole vectors, filled up with zeros: what multiply_tile reads with b_step = panel's width.
void pack_panels(const Matrix& b, std::int64_t depth, std::int64_t columns, float* to);

}  // namespace qad::ops
