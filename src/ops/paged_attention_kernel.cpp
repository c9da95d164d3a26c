// Rows of scores, a row a query of a head: up to eight rows at a time read each key and value once.
// Which rows share a tile changes no bit: a score sums over the dimension in order, a result over
// the sequence's tokens in order, and each row's own.
#include "ops/paged_attention_kernel.h"

#include <hwy/cache_control.h>

#include <utility>
#include <vector>

#include "nvfp4/nvfp4.h"
#include "ops/softmax_row.h"

namespace qad::ops {
namespace {

constexpr int kMostRows = 8;
constexpr float kLog2E = 1.44269504089f;

std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}

// How many tokens ahead memory is asked for: pages lie anywhere, and a head has little of each, so
// that a processor does not guess what comes next.
constexpr std::int64_t kAhead = 16;

template <class Element>
HWY_INLINE void prefetch(const Element* p, std::int64_t count) {
  constexpr std::int64_t kLine = 64 / sizeof(Element);
  for (std::int64_t i = 0; i < count; i += kLine) hwy::Prefetch(p + i);
}

// What the cache holds, as floats: they are there, or they are E4M3 codes and a scale.
struct Plain {
  using Element = float;
  const float* data;

  Plain(const void* from, float) : data(static_cast<const float*>(from)) {}
  template <class D>
  HWY_INLINE hn::Vec<D> load(D d, std::int64_t at) const {
    return hn::LoadU(d, data + at);
  }
  float get(std::int64_t at) const { return data[at]; }
};
struct Coded {
  using Element = std::uint8_t;
  const std::uint8_t* data;
  float scale;

  Coded(const void* from, float by) : data(static_cast<const std::uint8_t*>(from)), scale(by) {}
  // The code's exponent and mantissa, shifted into a float's, are its value times 2^-120, which is
  // exact for subnormal codes, too. There are no NaN among codes that saturate.
  template <class D>
  HWY_INLINE hn::Vec<D> load(D d, std::int64_t at) const {
    const hn::Rebind<std::uint8_t, D> bytes;
    const hn::Rebind<std::uint32_t, D> words;
    const auto code = hn::PromoteTo(words, hn::LoadU(bytes, data + at));
    const auto size = hn::ShiftLeft<20>(hn::And(code, hn::Set(words, 0x7Fu)));
    const auto sign = hn::ShiftLeft<24>(hn::And(code, hn::Set(words, 0x80u)));
    const auto value = hn::Mul(hn::BitCast(d, size), hn::Set(d, 0x1p120f));
    return hn::Mul(hn::Or(value, hn::BitCast(d, sign)), hn::Set(d, scale));
  }
  float get(std::int64_t at) const { return nvfp4::e4m3_decode(data[at]) * scale; }
};
// The first n lanes, the others zero.
template <class Cache, class D>
HWY_INLINE hn::Vec<D> load(const Cache& cache, D d, std::int64_t at, std::int64_t n) {
  if (n == static_cast<std::int64_t>(hn::Lanes(d))) return cache.load(d, at);
  HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)] = {};
  for (std::int64_t i = 0; i < n; ++i) lanes[i] = cache.get(at + i);
  return hn::Load(d, lanes);
}

// Where each token's vectors begin; and, of tokens beyond, the last one again.
std::vector<std::int64_t> places(const PagedHeads& in) {
  std::vector<std::int64_t> at(in.seen() + 2 * kAhead);
  for (std::int64_t first = 0, page = 0; first < in.seen(); first += in.page_tokens, ++page) {
    const std::int64_t end = std::min(in.seen(), first + in.page_tokens);
    std::int64_t place = in.pages[page] * in.page_tokens * in.kv_stride;
    for (std::int64_t t = first; t < end; ++t, place += in.kv_stride) at[t] = place;
  }
  std::fill(at.begin() + in.seen(), at.end(), at[in.seen() - 1]);
  return at;
}

// to[i][j] = component i of key j < count; columns up to key_step() are zero. Four by four: to
// gather single floats would take longer than the products of a decoding step.
template <class Cache>
void transpose_strip(const Cache& keys, const std::int64_t* at, std::int64_t count,
                     std::int64_t dim, float* HWY_RESTRICT to) {
  const hn::CappedTag<float, 4> d;
  const std::int64_t width = key_step();
  const std::int64_t whole = hn::Lanes(d) == 4 ? count / 4 * 4 : 0, quads = dim / 4 * 4;
  for (std::int64_t j = 0; j < whole; j += 4) {
    const std::int64_t k0 = at[j], k1 = at[j + 1], k2 = at[j + 2], k3 = at[j + 3];
    for (int k = 0; k < 4; ++k) prefetch(keys.data + at[j + kAhead + k], dim);
    for (std::int64_t i = 0; i < quads; i += 4) {
      const auto r0 = keys.load(d, k0 + i), r1 = keys.load(d, k1 + i);
      const auto r2 = keys.load(d, k2 + i), r3 = keys.load(d, k3 + i);
      const auto a = hn::InterleaveLower(d, r0, r1), b = hn::InterleaveLower(d, r2, r3);
      const auto e = hn::InterleaveUpper(d, r0, r1), f = hn::InterleaveUpper(d, r2, r3);
      float* column = to + i * width + j;
      hn::Store(hn::ConcatLowerLower(d, b, a), d, column);
      hn::Store(hn::ConcatUpperUpper(d, b, a), d, column + width);
      hn::Store(hn::ConcatLowerLower(d, f, e), d, column + 2 * width);
      hn::Store(hn::ConcatUpperUpper(d, f, e), d, column + 3 * width);
    }
    for (std::int64_t i = quads; i < dim; ++i) {
      float* column = to + i * width + j;
      column[0] = keys.get(k0 + i), column[1] = keys.get(k1 + i);
      column[2] = keys.get(k2 + i), column[3] = keys.get(k3 + i);
    }
  }
  for (std::int64_t j = whole; j < width; ++j)
    for (std::int64_t i = 0; i < dim; ++i)
      to[i * width + j] = j < count ? keys.get(at[j] + i) : 0.0f;
}

// out[r][j] = sum over i of q[i][r] * strip[i][j], for the key_step() keys of a strip.
template <int kRows>
void scores(const float* HWY_RESTRICT q, const float* HWY_RESTRICT strip, std::int64_t dim,
            std::int64_t pitch, float* HWY_RESTRICT out) {
  const FloatTag d;
  const std::int64_t lanes = hn::Lanes(d);
  FloatVec low[kRows], high[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) low[r] = high[r] = hn::Zero(d);
  for (std::int64_t i = 0; i < dim; ++i) {
    const auto k0 = hn::Load(d, strip + i * 2 * lanes);
    const auto k1 = hn::Load(d, strip + i * 2 * lanes + lanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto x = hn::Set(d, q[i * kRows + r]);
      low[r] = hn::MulAdd(x, k0, low[r]);
      high[r] = hn::MulAdd(x, k1, high[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    hn::Store(low[r], d, out + r * pitch);
    hn::Store(high[r], d, out + r * pitch + lanes);
  }
}

// sums[r][c] = sum over j < count of p[r][j] * values[at[j]][first + c], for kVectors vectors of
// columns, the last with `last` lanes.
template <int kRows, int kVectors, class Cache>
HWY_INLINE void weigh_columns(const float* HWY_RESTRICT p, std::int64_t pitch, const Cache& values,
                              std::int64_t first, const std::int64_t* HWY_RESTRICT at,
                              std::int64_t count, std::int64_t last, std::int64_t width,
                              float* HWY_RESTRICT sums) {
  const FloatTag d;
  const std::int64_t lanes = hn::Lanes(d);
  FloatVec acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) acc[r][c] = hn::Zero(d);
  for (std::int64_t j = 0; j < count; ++j) {
    const std::int64_t v = at[j] + first;
    prefetch(values.data + at[j + kAhead] + first, kVectors * lanes);
    FloatVec row[kVectors];
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c)
      row[c] = kVectors == 1 ? load(values, d, v, last) : values.load(d, v + c * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto x = hn::Set(d, p[r * pitch + j]);
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) acc[r][c] = hn::MulAdd(x, row[c], acc[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) hn::Store(acc[r][c], d, sums + r * width + c * lanes);
}

template <int kRows, class Cache>
void weigh(const float* p, std::int64_t pitch, const Cache& values, const std::int64_t* at,
           std::int64_t count, std::int64_t dim, std::int64_t width, float* sums) {
  const std::int64_t lanes = hn::Lanes(FloatTag());
  std::int64_t c = 0;
  // With few rows more columns at once, so that additions need not wait for each other.
  if constexpr (kRows <= 4)
    for (; c + 4 * lanes <= dim; c += 4 * lanes)
      weigh_columns<kRows, 4>(p, pitch, values, c, at, count, lanes, width, sums + c);
  for (; c + 2 * lanes <= dim; c += 2 * lanes)
    weigh_columns<kRows, 2>(p, pitch, values, c, at, count, lanes, width, sums + c);
  for (; c < dim; c += lanes)
    weigh_columns<kRows, 1>(p, pitch, values, c, at, count, std::min(lanes, dim - c), width,
                            sums + c);
}

// sums[c] += p * values[v + c]
template <class Cache>
void add_value(float p, const Cache& values, std::int64_t v, std::int64_t dim, float* sums) {
  const FloatTag d;
  for_lanes(d, dim, [&](std::int64_t c, std::int64_t n) {
    hn::Store(hn::MulAdd(hn::Set(d, p), load(values, d, v + c, n), hn::Load(d, sums + c)), d,
              sums + c);
  });
}

struct Scratch {
  float *strips, *scores, *q, *sums;
};
// What all tiles of a call share; row r of the call is head r % group of token r / group.
struct Rows {
  const PagedHeads& in;
  const std::int64_t* at;
  Scratch scratch;
  std::int64_t pitch, width;
  bool keep;  // strips stay for later tiles
  float* out;
  std::int64_t out_stride;
  std::int64_t seen(std::int64_t row) const { return in.past + row / in.group + 1; }
};

// The strips below `packed` are there already; returns how far they are now.
template <int kRows, class Cache>
std::int64_t tile(const Rows& a, std::int64_t first, std::int64_t packed) {
  const PagedHeads& in = a.in;
  const Scratch& s = a.scratch;
  const Cache of_keys(in.keys, in.key_scale), of_values(in.values, in.value_scale);
  for (int r = 0; r < kRows; ++r) {
    const std::int64_t row = first + r;
    const float* q = in.q + row / in.group * in.q_stride + row % in.group * in.dim;
    for (std::int64_t i = 0; i < in.dim; ++i) s.q[i * kRows + r] = q[i] * (in.scale * kLog2E);
  }
  const std::int64_t step = key_step(), seen = a.seen(first + kRows - 1);
  const std::int64_t keys = round_up(seen, step);
  for (std::int64_t j = 0; j < keys; j += step) {
    float* strip = s.strips + (a.keep ? j * in.dim : 0);
    if (j >= packed)
      transpose_strip(of_keys, a.at + j, std::min(step, in.seen() - j), in.dim, strip);
    scores<kRows>(s.q, strip, in.dim, a.pitch, s.scores + j);
  }
  float totals[kRows];
  for (int r = 0; r < kRows; ++r) {
    float* row = s.scores + r * a.pitch;
    mask_row(a.seen(first + r), keys, row);
    totals[r] = softmax_row(keys, row).total;
  }
  // What all rows see, then what only the later ones do: a row never touches a value after its own.
  const std::int64_t common = a.seen(first);
  weigh<kRows>(s.scores, a.pitch, of_values, a.at, common, in.dim, a.width, s.sums);
  for (int r = 0; r < kRows; ++r) {
    const std::int64_t row = first + r;
    float* sums = s.sums + r * a.width;
    for (std::int64_t j = common; j < a.seen(row); ++j)
      add_value(s.scores[r * a.pitch + j], of_values, a.at[j], in.dim, sums);
    float* to = a.out + row / in.group * a.out_stride + row % in.group * in.dim;
    const float inverse = 1.0f / totals[r];
    for (std::int64_t i = 0; i < in.dim; ++i) to[i] = sums[i] * inverse;
  }
  return a.keep ? std::max(packed, keys) : 0;
}

using Tile = std::int64_t (*)(const Rows&, std::int64_t, std::int64_t);
template <class Cache, std::size_t... kLess>
Tile tile_of(std::int64_t rows, std::index_sequence<kLess...>) {
  static constexpr Tile kTiles[] = {tile<static_cast<int>(kLess) + 1, Cache>...};
  return kTiles[rows - 1];
}

}  // namespace

std::int64_t paged_attention_scratch(std::int64_t tokens, std::int64_t group, std::int64_t seen,
                                     std::int64_t dim) {
  const std::int64_t pitch = round_up(seen, key_step());
  const std::int64_t strips = tokens * group > kMostRows ? pitch : key_step();
  return strips * dim + kMostRows * (pitch + dim + round_up(dim, key_step()));
}

void paged_attention_heads(const PagedHeads& in, float* out, std::int64_t out_stride,
                           float* scratch) {
  const std::int64_t rows = in.tokens * in.group, pitch = round_up(in.seen(), key_step());
  const std::int64_t width = round_up(in.dim, key_step());
  const bool keep = rows > kMostRows;
  Scratch s{};
  s.strips = scratch;
  s.scores = s.strips + (keep ? pitch : key_step()) * in.dim;
  s.sums = s.scores + kMostRows * pitch;
  s.q = s.sums + kMostRows * width;
  const std::vector<std::int64_t> at = places(in);
  const Rows all{in, at.data(), s, pitch, width, keep, out, out_stride};
  std::int64_t packed = 0;
  constexpr std::make_index_sequence<kMostRows> kSizes;
  for (std::int64_t first = 0; first < rows; first += kMostRows) {
    const std::int64_t count = std::min<std::int64_t>(kMostRows, rows - first);
    const Tile tile = in.e4m3 ? tile_of<Coded>(count, kSizes) : tile_of<Plain>(count, kSizes);
    packed = tile(all, first, packed);
  }
}

}  // namespace qad::ops
