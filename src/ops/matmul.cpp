// Blocks and threads of matmul, after Goto and van de Geijn: a block of b is copied into panels
// that fit the second cache with the rows of a that pass by them.
#include "ops/matmul.h"

#include <ATen/Parallel.h>
#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <new>

#include "ops/matmul_kernel.h"
#include "ops/packed_kernel.h"
#include "ops/threads.h"

namespace qad::ops {
namespace {

// The largest blocks, measured on Zen 4 with 1 MiB of second cache: 432 KiB of b, 270 KiB of a.
// Sums are cut by kDepth and nowhere else: it is part of what the results are, bit by bit.
constexpr std::int64_t kDepth = 288;
constexpr std::int64_t kRows = 240;
constexpr std::int64_t kColumns = 384;
constexpr std::int64_t kThreadWork = 1 << 18;  // multiplications worth waking a thread for
constexpr std::int64_t kRowWork = 1 << 16;  // the same for a product of one row, which is cut into
constexpr std::int64_t kRowPieces = 4;      // a thread: who waits for memory less does more of them
constexpr std::int64_t kPackRows = 16;      // copying an element of b costs as much as so many rows

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// The size, a multiple of `step`, of blocks that cut n evenly and are at most `most`.
std::int64_t even_block(std::int64_t n, std::int64_t most, std::int64_t step) {
  return divide_up(n, std::max<std::int64_t>(1, divide_up(n, most)) * step) * step;
}

// The terms of each sum are added in blocks of so many.
std::int64_t depth_of(std::int64_t k) {
  return even_block(k, kDepth, 16);
}

struct Product {
  Matrix a, b;
  const PackedMatrix* packed;  // b is its transpose, if there is one
  float* c;
  std::int64_t c_stride, k;
  Addend addend;
};

// A thread's part of the product: rows [m0, m1), columns [n0, n1).
struct Part {
  std::int64_t m0, m1, n0, n1;
};

const float* element(const Matrix& m, std::int64_t row, std::int64_t column) {
  return m.data + (m.transposed ? column * m.stride + row : row * m.stride + column);
}

// Rows of a tile come from far away in pieces too short for the hardware to foresee them.
void prefetch_rows(const float* a, std::int64_t stride, std::int64_t depth) {
  for (std::int64_t r = 0; r < kTileRows; ++r)
    for (std::int64_t k = 0; k < depth; k += kLine) __builtin_prefetch(a + r * stride + k, 0, 2);
}

// Adds terms [k0, k0 + depth) of columns [n0, n0 + columns), for which the panels at b hold.
void multiply_block(const Product& p, const Part& part, std::int64_t k0, std::int64_t depth,
                    std::int64_t n0, std::int64_t columns, const float* b) {
  const Matrix& a = p.a;
  const std::int64_t a_row = a.transposed ? 1 : a.stride, a_step = a.transposed ? a.stride : 1;
  const Addend addend = k0 == 0 ? p.addend : Addend{p.c, p.c_stride};
  const std::int64_t block = even_block(part.m1 - part.m0, kRows, kTileRows);
  for (std::int64_t m0 = part.m0; m0 < part.m1; m0 += block) {
    const std::int64_t m1 = std::min(m0 + block, part.m1);
    for (std::int64_t n = 0; n < columns; n += kPanel) {
      const std::int64_t width = std::min<std::int64_t>(kPanel, columns - n);
      Tile tile{.a = element(a, m0, k0),
                .a_row = a_row,
                .a_step = a_step,
                .a_ahead = n == 0 ? depth * a_step : 0,  // the next block of terms
                .b = b + n * depth,
                .b_step = whole_vectors(width),
                .depth = depth,
                .c = p.c + m0 * p.c_stride + n0 + n,
                .c_stride = p.c_stride,
                .addend = addend};
      if (addend.data) tile.addend.data += m0 * addend.stride + n0 + n;
      for (std::int64_t m = m0; m < m1; m += kTileRows) {
        if (n == 0 && !a.transposed) prefetch_rows(tile.a + kTileRows * a_row, a_row, depth);
        multiply_tile(tile, std::min<std::int64_t>(kTileRows, m1 - m), width);
        tile.a += kTileRows * a_row;
        tile.c += kTileRows * p.c_stride;
        if (addend.data) tile.addend.data += kTileRows * addend.stride;
      }
    }
  }
}

void multiply_part(const Product& p, const Part& part) {
  thread_local const auto panels = hwy::AllocateAligned<float>(kDepth * kColumns);
  if (!panels) throw std::bad_alloc();
  // Rows of just one panel's width are a panel as they are.
  const bool pack = p.b.transposed || part.n1 - part.n0 != kPanel || p.b.stride != kPanel;
  const std::int64_t k_block = depth_of(p.k);
  const std::int64_t n_block = even_block(part.n1 - part.n0, kColumns, kPanel);
  for (std::int64_t n = part.n0; n < part.n1; n += n_block) {
    const std::int64_t columns = std::min(n_block, part.n1 - n);
    std::int64_t k = 0;
    do {  // at least once: an empty sum is stored, too
      const std::int64_t depth = std::min(k_block, p.k - k);
      const float* b = panels.get();
      if (p.packed != nullptr)
        unpack_panels(*p.packed, k, depth, n, columns, panels.get());
      else if (pack)
        pack_panels({element(p.b, k, n), p.b.stride, p.b.transposed}, depth, columns, panels.get());
      else
        b = element(p.b, k, n);
      multiply_block(p, part, k, depth, n, columns, b);
      k += depth;
    } while (k < p.k);
  }
}

void multiply(const Product& product, std::int64_t m, std::int64_t n) {
  const std::int64_t threads =
      std::clamp<std::int64_t>(m * n * product.k / kThreadWork, 1, at::get_num_threads());
  // A grid of parts; each copies its own columns of b, so that no thread waits for another.
  std::int64_t across = 1, rows = m, columns = n, least = INT64_MAX;
  for (std::int64_t x = 1; x <= threads; ++x) {
    const std::int64_t r = divide_up(m, threads / x);
    const std::int64_t w = whole_vectors(divide_up(n, x));
    if ((r + kPackRows) * w >= least) continue;
    least = (r + kPackRows) * w;
    across = x, rows = r, columns = w;
  }
  for_pieces(across * divide_up(m, rows), [&](std::int64_t i) {
    const std::int64_t m0 = i / across * rows, n0 = i % across * columns;
    multiply_part(product, {m0, std::min(m, m0 + rows), n0, std::min(n, n0 + columns)});
  });
}

}  // namespace

void matmul(const Matrix& a, const Matrix& b, float* c, std::int64_t c_stride, std::int64_t m,
            std::int64_t n, std::int64_t k, const Addend& addend) {
  if (m == 0 || n == 0) return;
  multiply({a, b, nullptr, c, c_stride, k, addend}, m, n);
}

void matmul_packed(const Matrix& a, const PackedMatrix& w, float* c, std::int64_t c_stride,
                   std::int64_t m, const float* bias) {
  if (m == 0 || w.rows == 0) return;
  if (m > 1 || a.transposed)
    return multiply({a, {}, &w, c, c_stride, w.cols, {bias, 0}}, m, w.rows);
  // By fours: a thread adds so many sums side by side (packed_kernel.cpp).
  const std::int64_t groups = w.groups(), depth = depth_of(w.cols);
  const std::int64_t least = kRowWork / std::max<std::int64_t>(1, w.cols * kSideBySide);
  const std::int64_t size =
      divide_up(std::max(least, groups / (kRowPieces * at::get_num_threads())) + 1, 4) * 4;
  for_pieces(divide_up(groups, size), [&](std::int64_t i) {
    multiply_row(w, a.data, bias, depth, i * size, std::min(groups, (i + 1) * size), c);
  });
}

}  // namespace qad::ops
