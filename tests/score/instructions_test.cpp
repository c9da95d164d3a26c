// Our verdicts against those of a reference on Python's own regular expressions, strings and JSON
// (tests/golden/instructions.py).
#include "score/instructions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <sstream>
#include <string>

#include "core/error.h"
#include "core/file.h"

namespace qad::score {
namespace {

const fs::path kSource = fs::path(QAD_SOURCE_DIR);

Json problem(const std::string& id, const Json& kwargs) {
  return {{"instruction_id_list", {id}}, {"kwargs", {kwargs}}};
}

std::string message_of(const std::string& id, const Json& kwargs, std::string_view response = "x") {
  try {
    check_instructions(problem(id, kwargs), response);
    return "no error";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(Instructions, VerdictsEqualTheReference) {
  const Json cases = read_json(kSource / "tests/golden/instructions.json");
  ASSERT_GT(cases.size(), 500u);
  std::set<std::string> ids;
  for (const Json& c : cases) {
    SCOPED_TRACE(c.dump());
    const std::string id = c["id"];
    ids.insert(id);
    const auto got = check_instructions(problem(id, c["kwargs"]), c["response"].get<std::string>());
    ASSERT_EQ(got.size(), 1u);
    EXPECT_EQ(got[0].id, id);
    EXPECT_EQ(got[0].strict, c["strict"].get<bool>());
    EXPECT_EQ(got[0].loose, c["loose"].get<bool>());
  }
  EXPECT_EQ(ids.size(), 25u);
}

TEST(Instructions, EveryProblemOfIFEvalIsUnderstood) {
  std::istringstream lines(read_text(kSource / "data/benchmarks/ifeval.jsonl"));
  std::size_t problems = 0, instructions = 0, exact = 0;
  for (std::string line; std::getline(lines, line); ++problems) {
    const Json p = parse_json(line, "ifeval.jsonl");
    for (const auto& verdict : check_instructions(p, "")) {
      EXPECT_FALSE(verdict.strict || verdict.loose) << verdict.id;
      ++instructions;
      exact += is_exact(verdict.id);
    }
  }
  EXPECT_EQ(problems, 541u);
  EXPECT_EQ(instructions, 834u);
  EXPECT_EQ(exact, 662u);
}

TEST(Instructions, ErrorsNameTheInstructionAndTheArgument) {
  using testing::HasSubstr;
  EXPECT_THAT(message_of("keywords:exist", {}), HasSubstr("found \"keywords:exist\""));
  EXPECT_THROW(is_exact("keywords:exist"), Error);
  EXPECT_THAT(message_of("keywords:frequency", {{"keyword", "a"}, {"relation", "at least"}}),
              HasSubstr("keywords:frequency: expected the argument frequency"));
  EXPECT_THAT(message_of("startend:end_checker", {{"end_phrase", nullptr}}),
              HasSubstr("startend:end_checker: expected the argument end_phrase"));
  EXPECT_THAT(message_of("detectable_format:number_bullet_lists", {{"num_bullets", "3"}}),
              HasSubstr("num_bullets: expected an integer, found \"3\""));
  EXPECT_THAT(
      message_of("length_constraints:number_words", {{"relation", "at most"}, {"num_words", 3}}),
      HasSubstr("found \"at most\""));
  EXPECT_THAT(message_of("language:response_language", {{"language", "xx"}}),
              HasSubstr("found \"xx\""));
  EXPECT_THROW(
      check_instructions(
          {{"instruction_id_list", {"punctuation:no_comma"}}, {"kwargs", Json::array()}}, "x"),
      Error);
}

TEST(Instructions, KeywordsThatPythonRefusesAreErrorsWhateverTheResponse) {
  for (const char* bad : {"(", "a**", "[a", "\\", "\\q", "*", "(?R)", "(*FAIL)", "(?<n>a)", "(?1)",
                          "\\K", "\\Q.\\E", "(?P<a>x)(?P=b)", "\\x4", "a{2,1}"})
    EXPECT_THAT(message_of("keywords:existence", {{"keywords", {bad}}}, ""),
                testing::HasSubstr(std::string("keyword \"") + bad + "\""))
        << bad;
}

TEST(Instructions, AKeywordWithoutEndIsAnError) {
  EXPECT_THAT(message_of("keywords:existence", {{"keywords", {"(a|aa)+[bc]"}}},
                         std::string(200, 'a') + "d"),
              testing::HasSubstr("pattern (a|aa)+[bc]"));
}

// Responses of models that repeat themselves: each would take quadratic time by the plain pattern.
TEST(Instructions, DegenerateResponsesAreScored) {
  const Json all = {
      {"instruction_id_list",
       {"detectable_format:number_bullet_lists", "detectable_content:number_placeholders",
        "detectable_format:title", "detectable_format:json_format",
        "length_constraints:number_sentences", "change_case:capital_word_frequency",
        "detectable_format:number_highlighted_sections"}},
      {"kwargs",
       {{{"num_bullets", 1}},
        {{"num_placeholders", 1}},
        Json::object(),
        Json::object(),
        {{"relation", "at least"}, {"num_sentences", 1}},
        {{"capital_relation", "at least"}, {"capital_frequency", 1}},
        {{"num_highlights", 1}}}}};
  for (const char* unit : {"\n", "[", "<<", "*", ".", ". ", "-", "'", "{\"a\":", "A.", "\""}) {
    std::string response;
    while (response.size() < 50'000) response += unit;
    EXPECT_EQ(check_instructions(all, response).size(), 7u);
  }
}

TEST(Instructions, BytesThatAreNoUtf8AreReplaced) {
  const auto verdict =
      check_instructions(problem("keywords:existence", {{"keywords", {"a\ufffd"}}}), "a\xff");
  EXPECT_TRUE(verdict[0].strict);
}

}  // namespace
}  // namespace qad::score
