// Products with packed weights: the bits of the product with the dequantised weight, for any number
// of rows and threads; that one is held to sums in double in matmul_test.cpp.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gmock/gmock.h>

#include <random>

#include "core/error.h"
#include "nvfp4/nvfp4.h"
#include "ops/ops.h"
#include "ops/packed_weight.h"

namespace qad::ops {
namespace {

using at::Tensor;

struct Weight {
  PackedWeight packed;
  Tensor value;  // FP32 [rows, cols]
};

// Several global scales, none of them a power of two; all E4M3 scales and codes.
struct Nvfp4 {
  std::vector<std::uint8_t> codes, scales;  // as a checkpoint has them
  std::vector<GlobalScale> globals;
};
Nvfp4 random_codes(std::int64_t rows, std::int64_t cols) {
  std::mt19937 generator(static_cast<unsigned>(rows * 7919 + cols));
  Nvfp4 n{std::vector<std::uint8_t>(static_cast<std::size_t>(rows * cols / 2)),
          std::vector<std::uint8_t>(static_cast<std::size_t>(rows * cols / 16)),
          {{rows / 3, 0.0123f}, {rows - rows / 3, 3.1f}}};
  for (std::uint8_t& c : n.codes) c = static_cast<std::uint8_t>(generator());
  for (std::uint8_t& s : n.scales) s = static_cast<std::uint8_t>(generator() % 0x7F);
  return n;
}

Weight random_nvfp4(std::int64_t rows, std::int64_t cols) {
  const Nvfp4 n = random_codes(rows, cols);
  Weight w{make_packed(Stored::nvfp4, rows, cols, n.globals), at::empty({rows, cols})};
  std::int64_t row = 0;
  for (const GlobalScale& g : n.globals) {
    const std::uint8_t *c = n.codes.data() + row * cols / 2, *s = n.scales.data() + row * cols / 16;
    put_rows(w.packed, row, g.rows, c, s);
    nvfp4::dequantize(c, s, g.rows, cols, g.value, w.value.data_ptr<float>() + row * cols);
    row += g.rows;
  }
  return w;
}

Weight random_plain(Stored stored, std::int64_t rows, std::int64_t cols) {
  Tensor value = at::randn({rows, cols});
  if (stored == Stored::bf16) value = value.to(at::kBFloat16).to(at::kFloat);
  Weight w{make_packed(stored, rows, cols), value};
  const std::int64_t first = rows / 2;  // by pieces, the second before the first
  put_rows(w.packed, first, rows - first, value.const_data_ptr<float>() + first * cols);
  put_rows(w.packed, 0, first, value.const_data_ptr<float>());
  return w;
}

Weight random_weight(Stored stored, std::int64_t rows, std::int64_t cols) {
  return stored == Stored::nvfp4 ? random_nvfp4(rows, cols) : random_plain(stored, rows, cols);
}

std::string name_of(Stored stored) {
  return stored == Stored::fp32 ? "fp32" : stored == Stored::bf16 ? "bf16" : "nvfp4";
}

class Packed : public ::testing::TestWithParam<Stored> {};

TEST_P(Packed, ProductsHaveTheBitsOfTheDequantisedWeight) {
  const int threads = at::get_num_threads();
  at::manual_seed(1);
  // Groups and vectors that are not full, several blocks of terms and of columns.
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{1, 16},
                                   {70, 64},
                                   {16, 288},
                                   {130, 304},
                                   {1051, 880},
                                   {96, 1536}}) {
    const Weight w = random_weight(GetParam(), rows, cols);
    const Tensor x = at::randn({64, cols}), bias = at::randn({rows});
    at::set_num_threads(1);
    const Tensor want = ops::linear(x, w.value, bias), plain = ops::linear(x, w.value);
    for (const int n : {1, 2, 3}) {
      at::set_num_threads(n);
      for (const std::int64_t batch : {1, 2, 3, 8, 64}) {
        const Tensor some = x.narrow(0, 64 - batch, batch);
        EXPECT_TRUE(at::equal(ops::linear(some, w.packed, bias), want.narrow(0, 64 - batch, batch)))
            << rows << " x " << cols << ", " << batch << " rows, " << n << " threads";
        EXPECT_TRUE(at::equal(ops::linear(some, w.packed), plain.narrow(0, 64 - batch, batch)));
      }
    }
  }
  at::set_num_threads(threads);
}
INSTANTIATE_TEST_SUITE_P(Weights, Packed,
                         ::testing::Values(Stored::fp32, Stored::bf16, Stored::nvfp4),
                         [](const auto& info) { return name_of(info.param); });

// What a GPU's kernel is held to by tests/cuda.
TEST(PackedWeights, AsCheckpointsLayThemOutHaveTheSameProducts) {
  constexpr std::int64_t kRows = 70, kCols = 64;
  const Weight w = random_nvfp4(kRows, kCols);
  Nvfp4 n = random_codes(kRows, kCols);
  const auto bytes = [&](std::vector<std::uint8_t>& of) {
    return at::from_blob(of.data(), {kRows, static_cast<std::int64_t>(of.size()) / kRows},
                         at::kByte);
  };
  const Tensor x = at::randn({5, kCols}), bias = at::randn({kRows});
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow("qad::linear_packed", "")
                      .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, at::IntArrayRef,
                                    at::ArrayRef<double>, const std::optional<Tensor>&)>();
  const std::vector<std::int64_t> ends{n.globals[0].rows, kRows};
  const std::vector<double> globals{n.globals[0].value, n.globals[1].value};
  EXPECT_TRUE(at::equal(op.call(x, bytes(n.codes), bytes(n.scales), ends, globals, bias),
                        ops::linear(x, w.value, bias)));
}

TEST(PackedWeights, OddNumbersOfColumns) {
  for (const Stored stored : {Stored::fp32, Stored::bf16})
    for (const std::int64_t cols : {1, 7, 289}) {
      const Weight w = random_plain(stored, 33, cols);
      const Tensor x = at::randn({3, cols});
      EXPECT_TRUE(at::equal(ops::linear(x, w.packed), ops::linear(x, w.value)));
      EXPECT_TRUE(at::equal(ops::linear(x.narrow(0, 1, 1), w.packed),
                            ops::linear(x, w.value).narrow(0, 1, 1)));
    }
}

TEST(PackedWeights, GiveTheirRows) {
  const Tensor ids = at::tensor({32, 0, 7, 7, 16}, at::kLong);
  for (const Stored stored : {Stored::fp32, Stored::bf16}) {
    const Weight w = random_plain(stored, 33, 9);
    EXPECT_TRUE(at::equal(embedding(w.packed, ids), w.value.index_select(0, ids)));
    EXPECT_THROW(embedding(w.packed, at::tensor({33}, at::kLong)), Error);
  }
}

TEST(PackedWeights, TakeTheBytesOfTheirFormat) {
  EXPECT_EQ(make_packed(Stored::nvfp4, 960, 576, {{960, 1}}).nbytes(), 960 * 576 * 9 / 16);
  EXPECT_EQ(make_packed(Stored::bf16, 960, 576).nbytes(), 960 * 576 * 2);
}

TEST(PackedWeights, RefuseWhatTheyCannotHold) {
  EXPECT_THROW(make_packed(Stored::nvfp4, 16, 24, {{16, 1}}), Error);
  EXPECT_THROW(make_packed(Stored::nvfp4, 16, 16, {{15, 1}}), Error);
  const PackedWeight w = make_packed(Stored::bf16, 2, 1);
  const float tenth = 0.1f;
  EXPECT_THROW(put_rows(w, 0, 1, &tenth), Error);
  EXPECT_THROW(put_rows(w, 2, 1, &tenth), Error);
  EXPECT_THROW(ops::linear(at::ones({1, 1}).requires_grad_(), w), Error);
}

}  // namespace
}  // namespace qad::ops
