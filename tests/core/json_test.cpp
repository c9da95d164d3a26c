#include "core/json.h"

#include <gmock/gmock.h>

#include "core/error.h"

namespace qad {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string error_of(std::string_view text) {
  try {
    parse_json(text, "here");
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

std::string nested(std::size_t depth) {
  return std::string(depth, '[') + std::string(depth, ']');
}

TEST(ParseJson, KeepsOrderAndValues) {
  const Json json =
      parse_json(R"({"z": [1, -2, 2.5e3, true, null, "a\u00e9\n"], "a": {}, "m": []})", "here");
  EXPECT_EQ(json.dump(), R"({"z":[1,-2,2500.0,true,null,"aé\n"],"a":{},"m":[]})");
  EXPECT_TRUE(json["z"][0].is_number_unsigned());
  EXPECT_TRUE(json["z"][1].is_number_integer());
  EXPECT_EQ(parse_json("18446744073709551615", "here").get<std::uint64_t>(), UINT64_MAX);
}

TEST(ParseJson, RefusesBadText) {
  const struct {
    std::string text, reason;
  } cases[] = {
      {"", "unexpected end"},
      {"{", "unexpected end"},
      {R"({"a": 1,})", "at byte 9"},
      {R"({"a" 1})", "expected ':'"},
      {"[1 2]", "at byte 4"},
      {"{} {}", "at byte 4"},
      {"{'a': 1}", "at byte 2"},
      {"[01]", "at byte 3"},
      {"[1e999]", "number overflow"},
      {"[\"\xFF\"]", "ill-formed UTF-8"},
      {"[\"\xC0\x80\"]", "ill-formed UTF-8"},
      {"[\"\xED\xA0\x80\"]", "ill-formed UTF-8"},
      {R"(["\ud800"])", "surrogate"},
      {"[\"a\nb\"]", "control character"},
      {std::string("{}\0", 3), "at byte 3"},
      {R"({"a": 1, "b": {"c": 1, "c": 2}})", "duplicate key \"c\""},
      {R"({"a": 1, "\u0061": 2})", "duplicate key \"a\""},
      {nested(257), "deeper than 256"},
      {std::string(1'000'000, '['), "deeper than 256"},
      {R"({"a": nan})", "at byte"},
      {"[-NaN]", "at byte"},
      {"{NaN: 1}", "at byte 2"},
      {"[NaN NaN]", "at byte"},
  };
  for (const auto& [text, reason] : cases) {
    EXPECT_THAT(error_of(text), StartsWith("[parse_json] here: ")) << text.substr(0, 50);
    EXPECT_THAT(error_of(text), HasSubstr(reason)) << text.substr(0, 50);
  }
  EXPECT_EQ(error_of(nested(256)), "");
  EXPECT_EQ(error_of(R"([{"a": 1}, {"a": 2}])"), "");
}

TEST(ParseJson, NonFiniteNumbersArriveAsTheirLetters) {
  const Json json = parse_json(
      R"({"NaN": [NaN, -Infinity, Infinity], "s": "a NaN \" Infinity", "t": "\\"})", "here");
  EXPECT_EQ(json.dump(),
            R"({"NaN":["NaN","-Infinity","Infinity"],"s":"a NaN \" Infinity","t":"\\"})");
}

TEST(ParseJson, LargeObjectsTakeLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 300'000; ++i)
    text += "\"key" + std::to_string(i) + "\":" + std::to_string(i) + ",";
  text.back() = '}';
  EXPECT_EQ(parse_json(text, "here").size(), 300'000u);  // quadratic: minutes
}

TEST(ToText, IsWhatHuggingFaceWrites) {
  const Json json = {
      {"a", {1, "x"}}, {"limit", {0.0, "Infinity"}}, {"low", "-Infinity"}, {"e", Json::object()}};
  EXPECT_EQ(to_text(json),
            "{\n  \"a\": [\n    1,\n    \"x\"\n  ],\n  \"limit\": [\n    0.0,\n    Infinity\n  ],\n"
            "  \"low\": -Infinity,\n  \"e\": {}\n}\n");
  const Json tagged = {{"limit", {0.0, {{"__float__", "Infinity"}}}}};
  EXPECT_EQ(
      to_text(tagged),
      "{\n  \"limit\": [\n    0.0,\n    {\n      \"__float__\": \"Infinity\"\n    }\n  ]\n}\n")
      << "as Transformers writes it";
  EXPECT_EQ(parse_json(to_text(json), "here"), json);
  // Not a bare word: a key, and a string that only ends like one.
  const Json kept = {{"NaN", "a \"NaN"}, {"b", "\"NaN\""}};
  EXPECT_EQ(parse_json(to_text(kept), "here"), kept);
  EXPECT_THROW(to_text(Json("\xFF")), Error);
}

}  // namespace
}  // namespace qad
