// Languages, sentences and words against those of langdetect and NLTK, where these have one answer
// (tests/golden/instructions.py). How often they agree on text at large: docs/ifeval-checks.md.
#include "score/language.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/json.h"
#include "score/sentence.h"
#include "score/sentence_words.h"

namespace qad::score {
namespace {

Json golden(const char* name) {
  return read_json(fs::path(QAD_SOURCE_DIR) / "tests/golden/instruction_models.json")[name];
}

std::vector<std::string> strings(const std::vector<std::string_view>& views) {
  return {views.begin(), views.end()};
}

TEST(Language, EqualsLangdetect) {
  const Json cases = golden("languages");
  ASSERT_GT(cases.size(), 25u);
  for (const Json& c : cases)
    EXPECT_EQ(detect_language(c["text"].get<std::string>()), c["language"]) << c["text"];
}

TEST(Language, KnowsThoseOfIFEval) {
  for (const char* code : {"ar", "bg", "bn", "de", "en", "fa", "fi", "gu", "hi", "it", "kn", "ko",
                           "mr", "ne", "pa", "pt", "ru", "sw", "ta", "te", "th", "ur", "vi"})
    EXPECT_TRUE(is_detectable(code)) << code;
  EXPECT_FALSE(is_detectable("zh"));
  EXPECT_FALSE(is_detectable(""));
}

TEST(Sentence, EqualsPunkt) {
  const Json cases = golden("sentences");
  ASSERT_GT(cases.size(), 25u);
  for (const Json& c : cases)
    EXPECT_EQ(strings(sentences(c["text"].get<std::string>())),
              c["sentences"].get<std::vector<std::string>>())
        << c["text"];
}

TEST(Sentence, WordsEqualTheTreebankTokenizer) {
  for (const Json& c : golden("sentences"))
    for (std::size_t i = 0; i < c["sentences"].size(); ++i) {
      auto words = strings(treebank_words(c["sentences"][i].get<std::string>()));
      for (std::string& word : words)  // the golden file has one quote for all of NLTK's
        if (word == "''" || word == "``") word = "\"";
      EXPECT_EQ(words, c["words"][i].get<std::vector<std::string>>()) << c["sentences"][i];
    }
}

}  // namespace
}  // namespace qad::score
