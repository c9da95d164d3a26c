// Rounding under block scales that were chosen before, and the choice by local Hessians.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "nvfp4/nvfp4.h"
#include "nvfp4/plain.h"

namespace qad::nvfp4 {
namespace {

std::vector<float> normal(std::size_t n, unsigned seed, float deviation = 0.02f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw(0.0f, deviation);
  std::vector<float> x(n);
  for (float& v : x) v = draw(random);
  return x;
}

std::uint32_t bits(float x) {
  return std::bit_cast<std::uint32_t>(x);
}

// Any scales at all: most values saturate under some and vanish under others.
TEST(ChosenScales, EqualThePlainDefinition) {
  for (const auto& [rows, cols] : {std::pair{3, 32}, {5, 1}, {4, 17}, {1, 1100}})
    for (const float global : {0x1p-10f, 3.1e-4f}) {
      const auto x = normal(static_cast<std::size_t>(rows * cols), 7);
      const auto blocks = static_cast<std::size_t>(rows * blocks_per_row(cols));
      std::mt19937 random(3);
      std::vector<std::uint8_t> scales(blocks), codes(blocks * kBlock / 2);
      for (auto& s : scales) s = static_cast<std::uint8_t>(1 + random() % 0x7E);
      quantize_with_scales(x.data(), rows, cols, global, scales.data(), codes.data());
      std::vector<float> values(x.size()), back(x.size());
      fake_quantize_with_scales(x.data(), rows, cols, global, scales.data(), values.data());
      dequantize(codes.data(), scales.data(), rows, cols, global, back.data());
      for (int row = 0; row < rows; ++row)
        for (int col = 0; col < cols; ++col) {
          const auto i = static_cast<std::size_t>(row * cols + col);
          const auto block = static_cast<std::size_t>(row * blocks_per_row(cols) + col / kBlock);
          const float d = static_cast<float>(plain::e4m3(scales[block])) * global;
          const int code = plain::encode_e2m1(x[i] / d);
          const int byte = codes[block * kBlock / 2 + static_cast<std::size_t>(col % kBlock / 2)];
          ASSERT_EQ(col % 2 ? byte >> 4 : byte & 15, code) << row << " " << col;
          ASSERT_EQ(bits(values[i]), bits(static_cast<float>(plain::e2m1(code)) * d));
          ASSERT_EQ(bits(values[i]), bits(back[i]));
        }
    }
}

TEST(ChosenScales, ThoseOfARuleGiveItsCodes) {
  const auto x = normal(64 * 48, 9);
  const float global = global_scale(amax(x, "x"), GlobalScale::pow2, BlockScale::mse);
  std::vector<std::uint8_t> codes(x.size() / 2), scales(x.size() / kBlock), again(codes.size());
  quantize(x.data(), 64, 48, global, BlockScale::mse, codes.data(), scales.data());
  quantize_with_scales(x.data(), 64, 48, global, scales.data(), again.data());
  EXPECT_EQ(codes, again);
}

// e^T H e in double.
double loss(const float* x, int scale, float global, const float* hessian) {
  const float d = static_cast<float>(plain::e4m3(scale)) * global;
  double e[16], sum = 0;
  for (int i = 0; i < 16; ++i)
    e[i] = x[i] -
           static_cast<double>(static_cast<float>(plain::e2m1(plain::encode_e2m1(x[i] / d))) * d);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) sum += e[i] * e[j] * static_cast<double>(hessian[16 * i + j]);
  return sum;
}

// H = A^T A of `terms` correlated inputs for each block of a row.
std::vector<float> hessians(int blocks, int terms, unsigned seed) {
  std::vector<float> all;
  for (int b = 0; b < blocks; ++b) {
    auto a = normal(static_cast<std::size_t>(16 * terms), seed + static_cast<unsigned>(b), 1);
    for (int t = 0; t < terms; ++t)
      for (int i = 1; i < 16; ++i) a[16 * t + i] += (i % 5 == 0 ? 8.0f : 0.7f) * a[16 * t + i - 1];
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 16; ++j) {
        double sum = 0;
        for (int t = 0; t < terms; ++t) sum += static_cast<double>(a[16 * t + i]) * a[16 * t + j];
        all.push_back(static_cast<float>(sum));
      }
  }
  return all;
}

TEST(HessianScales, AreTheLeastOfAll126) {
  const int rows = 40, cols = 48;
  for (const int terms : {4, 64}) {  // singular, and not
    auto x = normal(rows * cols, 21);
    for (std::size_t i = 0; i < x.size(); i += 37) x[i] *= 20;
    std::fill_n(x.begin() + 16, 16, 0.0f);
    const auto h = hessians(cols / 16, terms, 77);
    const float global = global_scale(amax(x, "x"), GlobalScale::pow2, BlockScale::max);
    std::vector<std::uint8_t> scales(rows * cols / 16);
    hessian_scales(x.data(), rows, cols, global, h.data(), scales.data());
    EXPECT_EQ(scales[1], 0x38);  // of zeros: 1.0
    int same = 0, differs_from_mse = 0;
    for (int block = 0; block < rows * cols / 16; ++block) {
      if (block == 1) continue;
      const float* of = h.data() + block % (cols / 16) * 256;
      int best = 1;
      double least = loss(x.data() + 16 * block, 1, global, of);
      for (int s = 2; s < 0x7F; ++s)
        if (const double l = loss(x.data() + 16 * block, s, global, of); l < least)
          best = s, least = l;
      same += scales[block] == best;
      // FP32's own rounding may choose between equals.
      const double room = 1e-5 * (loss(x.data() + 16 * block, 0x7E, global, of) + least);
      EXPECT_LE(loss(x.data() + 16 * block, scales[block], global, of), least + room) << block;
      differs_from_mse +=
          scales[block] != plain::block_scale(x.data() + 16 * block, global, plain::Rule::mse);
    }
    EXPECT_GE(same, rows * cols / 16 * 98 / 100);
    EXPECT_GT(differs_from_mse, rows * cols / 16 / 4);  // the Hessian matters
  }
}

TEST(HessianScales, OfIndependentEqualInputsAreThoseOfTheSquaredError) {
  const auto x = normal(30 * 16, 4);
  std::vector<float> identity(256), ours(x.size());
  for (int i = 0; i < 16; ++i) identity[17 * i] = 1;
  const float global = global_scale(amax(x, "x"), GlobalScale::pow2, BlockScale::mse);
  std::vector<std::uint8_t> scales(30), expected(30), codes(240);
  hessian_scales(x.data(), 30, 16, global, identity.data(), scales.data());
  quantize(x.data(), 30, 16, global, BlockScale::mse, codes.data(), expected.data());
  EXPECT_EQ(scales, expected);
}

}  // namespace
}  // namespace qad::nvfp4
