// A word holds values of one row, so that a vector of words holds the same columns of neighbouring
// rows: one comes out after the other by shifting. A code's value is a look-up in a register.
#include "ops/packed_kernel.h"

#include <algorithm>
#include <array>
#include <bit>

#include "nvfp4/nvfp4.h"
#include "ops/matmul_kernel.h"

namespace qad::ops {
namespace {

using WordTag = hn::RebindToUnsigned<FloatTag>;
using WordVec = hn::Vec<WordTag>;
constexpr FloatTag d;
constexpr WordTag dw;
constexpr std::int64_t kBlock = nvfp4::kBlock;
constexpr int kVectorsOfGroup = kSideBySide / kLanes;
// Sums side by side: enough that additions need not wait for each other, and registers are left.
constexpr int kAtOnce = 4;

// The E2M1 values of the words' lowest four bits, whatever is above.
class CodeTable {
 public:
  CodeTable() : table_(hn::Load(d, kValues)) {}
  HWY_INLINE FloatVec operator()(WordVec words) const {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
    return FloatVec{_mm512_permutexvar_ps(words.raw, table_.raw)};
#elif HWY_TARGET == HWY_AVX2
    const FloatVec magnitude{_mm256_permutevar8x32_ps(table_.raw, words.raw)};
    return hn::Or(magnitude, sign(words));
#else
    // From 1.0 (code 2) on, exponent and mantissa of the code are those of the float.
    const auto code = hn::And(words, hn::Set(dw, 7));
    const auto normal = hn::ShiftLeft<22>(hn::Add(code, hn::Set(dw, 2 * 126)));
    const auto small = hn::IfThenElseZero(hn::Eq(code, hn::Set(dw, 1)),
                                          hn::Set(dw, std::bit_cast<std::uint32_t>(0.5f)));
    const auto value = hn::IfThenElse(hn::Lt(code, hn::Set(dw, 2)), small, normal);
    return hn::Or(hn::BitCast(d, value), sign(words));
#endif
  }

 private:
  alignas(64) static constexpr float kValues[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                                    -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  static HWY_INLINE FloatVec sign(WordVec words) {
    return hn::BitCast(d, hn::ShiftLeft<31>(hn::ShiftRight<3>(words)));
  }
  FloatVec table_;
};

// Vectors of neighbouring rows: `vectors` of them from vector `first` on.
struct Place {
  const std::uint32_t* words;
  std::int64_t group_words;  // from a group to the next
  std::int64_t first;

  const std::uint32_t* of(int vector) const {
    const std::int64_t v = first + vector;
    return words + v / kVectorsOfGroup * group_words + v % kVectorsOfGroup * kLanes;
  }
};

// Asks for what lies `ahead` words behind p.
HWY_INLINE void prefetch(const std::uint32_t* p, std::int64_t ahead) {
  __builtin_prefetch(p + ahead, 0, 2);
}

// Calls each(k, values) for k in [begin, end), where values[i] holds those of the i-th vector's
// rows in column k. begin is a multiple of 16.
template <int kVectors, class Each>
HWY_INLINE void for_each_fp32(const PackedMatrix& w, std::int64_t first, std::int64_t begin,
                              std::int64_t end, Each&& each) {
  const Place place{w.words, w.words_per_row() * kSideBySide, first};
  const std::uint32_t* at[kVectors];
  for (int v = 0; v < kVectors; ++v) at[v] = place.of(v) + begin * kSideBySide;
  const std::int64_t ahead = kVectors / kVectorsOfGroup * place.group_words;
  for (std::int64_t k = begin; k < end; ++k) {
    FloatVec values[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      values[v] = hn::BitCast(d, hn::LoadU(dw, at[v]));
      prefetch(at[v], ahead);
      at[v] += kSideBySide;
    }
    each(k, values);
  }
}

template <int kVectors, class Each>
HWY_INLINE void for_each_bf16(const PackedMatrix& w, std::int64_t first, std::int64_t begin,
                              std::int64_t end, Each&& each) {
  const Place place{w.words, w.words_per_row() * kSideBySide, first};
  const std::uint32_t* at[kVectors];
  for (int v = 0; v < kVectors; ++v) at[v] = place.of(v) + begin / 2 * kSideBySide;
  const std::int64_t ahead = kVectors / kVectorsOfGroup * place.group_words;
  const auto high = hn::Set(dw, 0xFFFF0000u);
  for (std::int64_t k = begin; k < end; k += 2) {
    FloatVec even[kVectors], odd[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const auto word = hn::LoadU(dw, at[v]);
      even[v] = hn::BitCast(d, hn::ShiftLeft<16>(word));
      odd[v] = hn::BitCast(d, hn::And(word, high));
      prefetch(at[v], ahead);
      at[v] += kSideBySide;
    }
    each(k, even);
    if (k + 1 < end) each(k + 1, odd);
  }
}

// The global scales of a vector's rows.
HWY_INLINE FloatVec globals_of(const PackedMatrix& w, std::int64_t row) {
  std::size_t part = 0;
  while (part + 1 < w.ends.size() && row >= w.ends[part]) ++part;
  if (part + 1 == w.ends.size() || row + kLanes <= w.ends[part]) return hn::Set(d, w.globals[part]);
  HWY_ALIGN float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    while (part + 1 < w.ends.size() && row + i >= w.ends[part]) ++part;
    lanes[i] = w.globals[part];
  }
  return hn::Load(d, lanes);
}

template <int kVectors, class Each>
HWY_INLINE void for_each_nvfp4(const PackedMatrix& w, std::int64_t first, std::int64_t begin,
                               std::int64_t end, Each&& each) {
  const Place place{w.words, w.words_per_row() * kSideBySide, first};
  const std::int64_t blocks = w.cols / kBlock;
  const hn::Rebind<std::uint8_t, FloatTag> bytes;
  const CodeTable table;
  const std::uint32_t* at[kVectors];
  const std::uint8_t* scale_at[kVectors];
  FloatVec global[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    at[v] = place.of(v) + begin / 8 * kSideBySide;
    const std::int64_t row = (first + v) * kLanes;
    scale_at[v] =
        w.scales + (row / kSideBySide * blocks + begin / kBlock) * kSideBySide + row % kSideBySide;
    global[v] = globals_of(w, row);
  }
  const std::int64_t ahead = kVectors / kVectorsOfGroup * place.group_words;
  // An E4M3 code's bits in a float's places, subnormal ones too, are the value but for the bias.
  const auto bias = hn::Set(d, 0x1p120f);
  for (std::int64_t k = begin; k < end; k += kBlock) {
    FloatVec scale[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const auto code = hn::PromoteTo(dw, hn::LoadU(bytes, scale_at[v]));
      const auto value = hn::Mul(hn::BitCast(d, hn::ShiftLeft<20>(code)), bias);
      scale[v] = hn::Mul(value, global[v]);
      scale_at[v] += kSideBySide;
    }
    for (int half = 0; half < 2; ++half) {
      WordVec word[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        word[v] = hn::LoadU(dw, at[v]);
        prefetch(at[v], ahead);
        at[v] += kSideBySide;
      }
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        FloatVec values[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          values[v] = hn::Mul(table(word[v]), scale[v]);
          word[v] = hn::ShiftRight<4>(word[v]);
        }
        each(k + 8 * half + j, values);
      }
    }
  }
}

template <int kVectors, class Each>
HWY_INLINE void for_each_column(const PackedMatrix& w, std::int64_t first, std::int64_t begin,
                                std::int64_t end, Each&& each) {
  switch (w.stored) {
    case Stored::fp32:
      return for_each_fp32<kVectors>(w, first, begin, end, each);
    case Stored::bf16:
      return for_each_bf16<kVectors>(w, first, begin, end, each);
    case Stored::nvfp4:
      return for_each_nvfp4<kVectors>(w, first, begin, end, each);
  }
}

template <int kVectors>
void row_times(const PackedMatrix& w, const float* a, const float* bias, std::int64_t depth,
               std::int64_t first, float* c) {
  FloatVec totals[kVectors];
  for (std::int64_t begin = 0; begin == 0 || begin < w.cols; begin += depth) {
    FloatVec sums[kVectors];
    for (int v = 0; v < kVectors; ++v) sums[v] = hn::Zero(d);
    for_each_column<kVectors>(w, first, begin, std::min(begin + depth, w.cols),
                              [&](std::int64_t k, const FloatVec(&values)[kVectors]) {
                                const auto factor = hn::Set(d, a[k]);
#pragma GCC unroll 8
                                for (int v = 0; v < kVectors; ++v)
                                  sums[v] = hn::MulAdd(factor, values[v], sums[v]);
                              });
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t row = (first + v) * kLanes,
                         lanes = std::min<std::int64_t>(kLanes, w.rows - row);
      if (begin > 0)
        totals[v] = hn::Add(totals[v], sums[v]);
      else if (bias != nullptr && lanes > 0)
        totals[v] = hn::Add(load(d, bias + row, lanes), sums[v]);
      else
        totals[v] = sums[v];
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    const std::int64_t row = (first + v) * kLanes,
                       lanes = std::min<std::int64_t>(kLanes, w.rows - row);
    if (lanes > 0) store(d, totals[v], c + row, lanes);
  }
}

// Terms [k, k + depth) of the vectors' rows, those of a term beside each other, `width` apart.
template <int kVectors>
void unpack_columns(const PackedMatrix& w, std::int64_t first, std::int64_t k, std::int64_t depth,
                    float* to, std::int64_t width) {
  for_each_column<kVectors>(w, first, k, k + depth,
                            [&](std::int64_t at, const FloatVec(&values)[kVectors]) {
                              float* row = to + (at - k) * width;
                              for (int v = 0; v < kVectors; ++v)
                                hn::StoreU(values[v], d, row + v * kLanes);
                            });
}

}  // namespace

void multiply_row(const PackedMatrix& w, const float* a, const float* bias, std::int64_t depth,
                  std::int64_t begin, std::int64_t end, float* c) {
  constexpr auto functions = std::array{&row_times<1>, &row_times<2>, &row_times<3>, &row_times<4>};
  const std::int64_t last = end * kVectorsOfGroup;
  for (std::int64_t v = begin * kVectorsOfGroup; v < last; v += kAtOnce) {
    const std::int64_t vectors = std::min<std::int64_t>(kAtOnce, last - v);
    functions[static_cast<std::size_t>(vectors - 1)](w, a, bias, depth, v, c);
  }
}

void unpack_panels(const PackedMatrix& w, std::int64_t k, std::int64_t depth, std::int64_t first,
                   std::int64_t rows, float* to) {
  const std::int64_t v = first / kLanes, vectors = whole_vectors(rows) / kLanes;
  std::int64_t n = 0;
  for (; n + kTileVectors <= vectors; n += kTileVectors)
    unpack_columns<kTileVectors>(w, v + n, k, depth, to + n * kLanes * depth, kPanel);
  float* const last = to + n * kLanes * depth;
  const std::int64_t width = (vectors - n) * kLanes, whole = n;
  for (; n < vectors; ++n)
    unpack_columns<1>(w, v + n, k, depth, last + (n - whole) * kLanes, width);
}

}  // namespace qad::ops
