// The plain definition of NVFP4, one value at a time and by search in the table of representable
// values rather than by bit arithmetic. It shares nothing with src/nvfp4; the vectors are held
// equal to it bit for bit.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace plain {

enum class Rule { max, mse, four_over_six };

inline double e2m1(int code) {
  constexpr double kValues[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return code & 8 ? -kValues[code & 7] : kValues[code & 7];
}

inline double e4m3(int code) {  // codes 0..0x7E
  static const auto values = [] {
    std::array<double, 127> table;
    for (int i = 0; i < 127; ++i)
      table[i] = i < 8 ? i / 512.0 : (1 + i % 8 / 8.0) * std::pow(2.0, i / 8 - 7);
    return table;
  }();
  return values[code];
}

// The code in [0, last] whose value is nearest to x >= 0; of two equally near the even one.
template <class Value>
int nearest(double x, int last, Value value) {
  int best = 0;
  for (int code = 1; code <= last; ++code) {
    const double gain = std::fabs(x - value(best)) - std::fabs(x - value(code));
    if (gain > 0 || (gain == 0 && code % 2 == 0)) best = code;
  }
  return best;
}

inline int encode_e2m1(float x) {
  return nearest(std::fabs(x), 7, e2m1) | (x < 0 ? 8 : 0);
}

inline int scale_code(float wanted) {
  if (wanted == 0) return 0x38;
  if (wanted < 0x1p-9f) wanted = 0x1p-9f;
  return nearest(wanted, 0x7E, e4m3);
}

inline float error(const float* x, int scale, float global, float amax) {
  const float d = static_cast<float>(e4m3(scale)) * global;
  const float unit = std::ldexp(1.0f, -std::clamp(std::ilogb(amax), -126, 126));
  std::array<float, 16> squares;
  for (int i = 0; i < 16; ++i) {
    const float y = static_cast<float>(e2m1(encode_e2m1(x[i] / d))) * d;
    const float e = (x[i] - y) * unit;
    squares[i] = e * e;
  }
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) squares[i] = squares[i] + squares[i + half];
  return squares[0];
}

inline int block_scale(const float* x, float global, Rule rule) {
  float amax = 0;
  for (int i = 0; i < 16; ++i) amax = std::fmax(amax, std::fabs(x[i]));
  const float six_global = 6 * global;
  const int six = scale_code(amax / six_global);
  if (rule == Rule::max || amax == 0) return six;
  if (rule == Rule::four_over_six) {
    const float wider = 1.5f * amax, sixth = amax / 6, wider_sixth = wider / 6;
    const int m6 = scale_code(sixth / global), m4 = scale_code(wider_sixth / global);
    return error(x, m4, global, amax) < error(x, m6, global, amax) ? m4 : m6;
  }
  int best = six;
  float least = std::numeric_limits<float>::infinity();
  for (int code = 1; code <= 0x7E; ++code)  // every one of the 126
    if (const float e = error(x, code, global, amax); e < least) best = code, least = e;
  return best;
}

struct Quantized {
  std::vector<std::uint8_t> codes, scales;
  std::vector<float> values;
};

inline Quantized quantize(const std::vector<float>& x, std::int64_t rows, std::int64_t cols,
                          float global, Rule rule) {
  Quantized q;
  q.values.resize(x.size());
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t first = 0; first < cols; first += 16) {
      std::array<float, 16> block{};
      for (int i = 0; i < 16 && first + i < cols; ++i) block[i] = x[row * cols + first + i];
      const int scale = block_scale(block.data(), global, rule);
      const float d = static_cast<float>(e4m3(scale)) * global;
      q.scales.push_back(static_cast<std::uint8_t>(scale));
      for (int i = 0; i < 16; i += 2) {
        const int even = encode_e2m1(block[i] / d), odd = encode_e2m1(block[i + 1] / d);
        q.codes.push_back(static_cast<std::uint8_t>(even | odd << 4));
        for (const auto& [at, code] : {std::pair{i, even}, std::pair{i + 1, odd}})
          if (first + at < cols)
            q.values[row * cols + first + at] = static_cast<float>(e2m1(code)) * d;
      }
    }
  return q;
}

}  // namespace plain
