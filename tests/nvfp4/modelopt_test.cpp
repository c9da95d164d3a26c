// ModelOpt 0.47's own codes, block scales and global scales on adversarial weights
// (tests/golden/nvfp4_modelopt.py), and torch's E4M3 cast.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "core/json.h"
#include "nvfp4/nvfp4.h"

namespace qad::nvfp4 {
namespace {

std::vector<std::uint8_t> bytes(const Json& hex) {
  const auto text = hex.get<std::string>();
  std::vector<std::uint8_t> out;
  for (std::size_t i = 0; i < text.size(); i += 2)
    out.push_back(static_cast<std::uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return out;
}

std::vector<float> floats(const Json& hex) {
  const auto raw = bytes(hex);
  std::vector<float> out(raw.size() / 4);
  std::memcpy(out.data(), raw.data(), raw.size());
  return out;
}

Json golden(const char* name) {
  return read_json(fs::path(QAD_SOURCE_DIR) / "tests/golden" / name);
}

class ModelOpt : public testing::TestWithParam<std::pair<const char*, BlockScale>> {};

TEST_P(ModelOpt, SameBytes) {
  const auto [key, rule] = GetParam();
  const Json file = golden("nvfp4_modelopt.json");
  const auto rows = file.at("rows").get<std::int64_t>(), cols = file.at("cols").get<std::int64_t>();
  int compared = 0;
  for (const auto& item : file.at("cases")) {
    SCOPED_TRACE(item.at("name").get<std::string>());
    const auto x = floats(item.at("x"));
    if (!item.contains(key))
      continue;  // squares of its errors leave FP32 in the peer; ours are scaled
    const auto& peer = item.at(key);
    ++compared;
    const float global = global_scale(amax(x, "x"), GlobalScale::amax, rule);
    EXPECT_EQ(global, floats(peer.at("global"))[0]);
    std::vector<std::uint8_t> codes(x.size() / 2), scales(x.size() / kBlock);
    quantize(x.data(), rows, cols, global, rule, codes.data(), scales.data());
    auto expected = bytes(peer.at("scales"));
    for (std::size_t b = 0; b < expected.size(); ++b) {
      const auto* block = x.data() + b * kBlock;
      // Zeros decode to zeros under any scale: always 1.0 here, 2^-9 or 448 with the peer's
      // searched scales.
      if (rule != BlockScale::max &&
          std::all_of(block, block + kBlock, [](float v) { return v == 0.0f; }))
        expected[b] = 0x38;
    }
    EXPECT_EQ(scales, expected);
    EXPECT_EQ(codes, bytes(peer.at("codes")));
  }
  EXPECT_GE(compared, rule == BlockScale::max ? 11 : 9);
}

INSTANTIATE_TEST_SUITE_P(Rules, ModelOpt,
                         testing::Values(std::pair{"max", BlockScale::max},
                                         std::pair{"mse", BlockScale::mse},
                                         std::pair{"four_over_six", BlockScale::four_over_six}),
                         [](const auto& info) { return std::string(info.param.first); });

TEST(E4M3, EncodesAsTorchCasts) {
  const Json file = golden("nvfp4_e4m3.json");
  const auto x = floats(file.at("x"));
  const auto codes = bytes(file.at("codes"));
  ASSERT_GT(x.size(), 1000u);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(e4m3_encode(x[i]), codes[i]) << x[i];
}

}  // namespace
}  // namespace qad::nvfp4
