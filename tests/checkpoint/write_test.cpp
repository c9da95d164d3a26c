#include "checkpoint/write.h"

#include <gmock/gmock.h>

#include <map>
#include <numeric>

#include "files.h"

namespace qad::checkpoint {
namespace {

using testing::HasSubstr;

std::vector<float> values(const Tensor& t) {
  std::vector<float> v(static_cast<std::size_t>(t.elements()));
  read_f32(t, v.data());
  return v;
}

OutTensor counting(const std::string& name, std::vector<std::int64_t> shape, float first) {
  const auto n = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  return {name, DType::f32, shape, [=](std::byte* out) {
            for (std::int64_t i = 0; i < n; ++i) {
              const float x = first + static_cast<float>(i);
              std::memcpy(out + i * 4, &x, 4);
            }
          }};
}

OutTensor bytes(const std::string& name, std::int64_t n) {
  return {name, DType::u8, {n}, [n](std::byte* out) {
            std::memset(out, 7, static_cast<std::size_t>(n));
          }};
}

OutFolder small_folder() {
  OutFolder out;
  out.config = {{"model_type", "llama"}, {"hidden_size", 4}};
  out.tensors = {bytes("a.odd", 3), counting("a.weight", {2, 3}, 1), counting("b.weight", {4}, 10),
                 counting("c.empty", {0, 5}, 0), counting("scalar", {}, 42)};
  return out;
}

TEST(WriteFolder, IsReadBack) {
  const ScratchFolder scratch;
  OutFolder out = small_folder();
  out.generation_config = {{"eos_token_id", 2}};
  out.files = {{"tokenizer.json", "{}"}};
  write_folder(scratch / "m", out);

  const Checkpoint c = open(scratch / "m");
  EXPECT_EQ(c.config, out.config);
  EXPECT_EQ(c.generation_config, out.generation_config);
  EXPECT_TRUE(c.quantization.is_null());
  EXPECT_EQ(c.tensors.size(), 5u);
  EXPECT_EQ(values(c.at("a.weight")), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(c.at("a.weight").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(values(c.at("scalar")), std::vector<float>{42});
  EXPECT_EQ(c.at("c.empty").elements(), 0);
  EXPECT_EQ(read_text(scratch / "m/tokenizer.json"), "{}");
  EXPECT_EQ(read_text(scratch / "m/config.json"),
            "{\n  \"model_type\": \"llama\",\n  \"hidden_size\": 4\n}\n");
}

}  // namespace
}  // namespace qad::checkpoint
