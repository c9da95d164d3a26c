#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>

#include <bit>

#include "files.h"

namespace qad::checkpoint {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::vector<Tensor> parse(std::string_view file) {
  std::map<std::string, std::string> metadata;
  return parse_safetensors(std::as_bytes(std::span(file)), "f", metadata);
}

TEST(Safetensors, ReadsWhatThePythonLibraryWrites) {
  const SafetensorsFile file = read_safetensors(golden("types.safetensors"));
  EXPECT_EQ(file.metadata, (std::map<std::string, std::string>{{"format", "pt"}}));
  const std::map<std::string, DType> types{
      {"float16", DType::f16}, {"bfloat16", DType::bf16}, {"float32", DType::f32},
      {"float64", DType::f64}, {"uint8", DType::u8},      {"float8_e4m3fn", DType::f8_e4m3},
      {"int64", DType::i64},   {"bool", DType::boolean}};
  const Json expected = read_json(golden("types.json"));
  ASSERT_EQ(file.tensors.size(), expected.size());
  for (const Tensor& t : file.tensors) {
    const Json& want = expected.at(t.name);
    EXPECT_EQ(t.dtype, types.at(want["dtype"])) << t.name;
    EXPECT_EQ(Json(t.shape), want["shape"]) << t.name;
    std::vector<float> values(static_cast<std::size_t>(t.elements()));
    if (want["f32_bits"].is_null() || t.dtype == DType::f8_e4m3) {
      EXPECT_THAT(error_of([&] { read_f32(t, values.data()); }), HasSubstr(t.name + ": stored as"));
      continue;
    }
    read_f32(t, values.data());
    for (std::size_t i = 0; i < values.size(); ++i)
      EXPECT_EQ(std::bit_cast<std::uint32_t>(values[i]), want["f32_bits"][i].get<std::uint32_t>())
          << t.name << " " << i;
  }
}

TEST(Safetensors, EveryHalfPrecisionValueConvertsExactly) {
  std::string data(2 * 65536, '\0');
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    std::memcpy(data.data() + 2 * i, &bits, 2);
  }
  const Tensor t = tensor_over("half", DType::f16, {65536}, std::as_bytes(std::span(data)));
  std::vector<float> values(65536);
  read_f32(t, values.data());
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const int exponent = static_cast<int>(i >> 10 & 31), mantissa = static_cast<int>(i & 1023);
    const double sign = i & 0x8000 ? -1 : 1;
    const double want = exponent == 31  ? (mantissa ? NAN : INFINITY)
                        : exponent == 0 ? std::ldexp(mantissa, -24)
                                        : std::ldexp(1024 + mantissa, exponent - 25);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(values[i])) << i;
    } else {
      EXPECT_EQ(values[i], sign * want) << i;
    }
  }
}

TEST(Safetensors, ReadsUnalignedDataInAnyHeaderOrder) {
  const std::string file =
      safetensors_file(R"({"b":{"dtype":"BF16","shape":[2],"data_offsets":[1,5]},)"
                       R"("a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},)"
                       R"("f":{"dtype":"F32","shape":[1,1],"data_offsets":[5,9]}}   )",
                       9);
  const auto tensors = parse(file);
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].name, "a");
  float values[2];
  read_f32(tensors[1], values);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(values[0]), 0x02010000u);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(values[1]), 0x04030000u);
  read_f32(tensors[2], values);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(values[0]), 0x08070605u);
}

TEST(Safetensors, KnowsTypesThatItCannotConvert) {
  const auto tensors = parse(safetensors_file(
      R"({"q":{"dtype":"U16","shape":[2],"data_offsets":[0,4]},"m":{"dtype":"F4","shape":[2],"data_offsets":[4,5]}})",
      5));
  EXPECT_EQ(tensors[0].dtype, DType::other);
  EXPECT_EQ(tensors[0].stored_as, "U16");
  float value;
  EXPECT_THAT(error_of([&] { read_f32(tensors[0], &value); }),
              HasSubstr("q: expected 2 plain values"));
}

TEST(Safetensors, ReadsAFileWithoutTensors) {
  EXPECT_TRUE(parse(safetensors_file("{}", 0)).empty());
  const auto empty =
      parse(safetensors_file(R"({"e":{"dtype":"F32","shape":[3,0],"data_offsets":[0,0]}})", 0));
  EXPECT_EQ(empty.at(0).elements(), 0);
  read_f32(empty.at(0), nullptr);
}

// A header entry called "a" with these fields.
std::string entry(const std::string& fields) {
  return "{\"a\":{" + fields + "}}";
}

TEST(Safetensors, RefusesHostileHeaders) {
  const std::string f32 = R"("dtype":"F32",)";
  const std::string at04 = R"(,"data_offsets":[0,4])";
  const struct {
    const char* what;
    std::string file;
    const char* error;
  } cases[] = {
      {"empty file", "", "0 bytes are too few"},
      {"short length", "1234567", "7 bytes are too few"},
      {"length beyond the file", safetensors_file("{}", 0).substr(0, 9),
       "claims 2 bytes, the file has 9"},
      {"huge length", std::string(8, '\x7F') + "{}", "the limit is 100000000"},
      {"length near 2^64", std::string(8, '\xFF') + "{}", "the limit is 100000000"},
      {"no header", safetensors_file("", 0), "expected a JSON object"},
      {"a list", safetensors_file("[]", 0), "expected a JSON object"},
      {"space first", safetensors_file(" {}", 0), "expected a JSON object"},
      {"cut JSON", safetensors_file(R"({"a":)", 0), "unexpected end"},
      {"zero padding", safetensors_file(std::string("{}\0\0", 4), 0), "zero byte"},
      {"text after the header", safetensors_file("{}x", 0), "parse_json"},
      {"deep nesting", safetensors_file(R"({"a":)" + std::string(9999, '['), 0), "nested deeper"},
      {"not UTF-8", safetensors_file("{\"\xFF\":{}}", 0), "ill-formed UTF-8"},
      {"duplicate name",
       safetensors_file(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                        R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                        0),
       "duplicate key \"a\""},
      {"entry not an object", safetensors_file(R"({"a":1})", 0), "a: expected an object"},
      {"no dtype", safetensors_file(entry(R"("shape":[1])" + at04), 4), "string \"dtype\""},
      {"dtype a number", safetensors_file(entry(R"("dtype":3,"shape":[1])" + at04), 4),
       "string \"dtype\""},
      {"unknown dtype", safetensors_file(entry(R"("dtype":"F33","shape":[1])" + at04), 4),
       "unknown dtype \"F33\""},
      {"no shape", safetensors_file(entry(f32 + R"("data_offsets":[0,4])"), 4), "list \"shape\""},
      {"negative dimension", safetensors_file(entry(f32 + R"("shape":[-1])" + at04), 4),
       "found [-1]"},
      {"fractional dimension", safetensors_file(entry(f32 + R"("shape":[1.0])" + at04), 4),
       "found [1.0]"},
      {"dimension of 2^63",
       safetensors_file(entry(f32 + R"("shape":[9223372036854775808])" + at04), 4), "dimensions"},
      {"elements overflow",
       safetensors_file(entry(f32 + R"("shape":[4294967296,4294967296])" + at04), 4),
       "larger than any file"},
      {"bytes overflow",
       safetensors_file(entry(f32 + R"("shape":[4611686018427387904])" + at04), 4),
       "larger than any file"},
      {"overflow to the right size",
       safetensors_file(entry(f32 + R"("shape":[4294967297,4294967296,1])" + at04), 4),
       "larger than any file"},
      {"half a byte",
       safetensors_file(entry(R"("dtype":"F4","shape":[3],"data_offsets":[0,1])"), 1),
       "whole bytes"},
      {"no offsets", safetensors_file(entry(f32 + R"("shape":[1])"), 4), "\"data_offsets\""},
      {"one offset", safetensors_file(entry(f32 + R"("shape":[1],"data_offsets":[0])"), 4),
       "\"data_offsets\""},
      {"negative offset", safetensors_file(entry(f32 + R"("shape":[1],"data_offsets":[-4,0])"), 4),
       "\"data_offsets\""},
      {"reversed offsets", safetensors_file(entry(f32 + R"("shape":[1],"data_offsets":[4,0])"), 4),
       "expected 4 bytes for F32 [1], found data_offsets [4, 0]"},
      {"lying offsets", safetensors_file(entry(f32 + R"("shape":[2])" + at04), 4),
       "expected 8 bytes for F32 [2]"},
      {"offsets near 2^64",
       safetensors_file(
           entry(f32 + R"("shape":[1],"data_offsets":[18446744073709551611,18446744073709551615])"),
           4),
       "a hole before it"},
      {"beyond the file", safetensors_file(entry(f32 + R"("shape":[1])" + at04), 3),
       "ends at byte 4 of 3"},
      {"bytes left over", safetensors_file(entry(f32 + R"("shape":[1])" + at04), 5),
       "1 bytes follow the last tensor"},
      {"hole", safetensors_file(entry(f32 + R"("shape":[1],"data_offsets":[1,5])"), 5),
       "a hole before it"},
      {"overlap",
       safetensors_file(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                        R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                        6),
       "b: expected its bytes to start at 4, found 2 (they overlap"},
      {"same bytes twice",
       safetensors_file(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                        R"("b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
                        4),
       "they overlap"},
      {"metadata a list", safetensors_file(R"({"__metadata__":[]})", 0),
       "__metadata__ to be an object"},
      {"metadata a number", safetensors_file(R"({"__metadata__":{"format":1}})", 0),
       "string under \"format\""},
  };
  for (const auto& [what, file, error] : cases) {
    const std::string message = error_of([&] { parse(file); });
    EXPECT_THAT(message, HasSubstr(error)) << what;
    EXPECT_THAT(message, HasSubstr("] f: ")) << what;
  }
}

// Whatever is cut off a good file makes it a bad one.
TEST(Safetensors, RefusesEveryTruncation) {
  const std::string file = read_text(golden("types.safetensors"));
  for (std::size_t size = 0; size < file.size(); ++size)
    EXPECT_NE(error_of([&] { parse(file.substr(0, size)); }), "") << size;
  EXPECT_EQ(error_of([&] { parse(file); }), "");
}

}  // namespace
}  // namespace qad::checkpoint
