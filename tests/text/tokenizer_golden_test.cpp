// Ids and texts of the `tokenizers` library (tests/golden/tokenizer.py) for small tokenizers of
// every family.
#include <gtest/gtest.h>

#include "text/tokenizer.h"

namespace qad::text {
namespace {

using Ids = std::vector<TokenId>;

const Json& golden() {
  static const Json json =
      read_json(fs::path(QAD_SOURCE_DIR) / "tests/golden/tokenizer_golden.json");
  return json;
}

TEST(TokenizerGolden, EncodesAndDecodesAsTheLibrary) {
  const auto cases = golden()["cases"].get<std::vector<std::string>>();
  ASSERT_GE(golden()["tokenizers"].size(), 9u);
  for (const auto& [name, expected] : golden()["tokenizers"].items()) {
    const Tokenizer tokenizer = tokenizer_from_json(expected["tokenizer"], nullptr);
    for (std::size_t i = 0; i < cases.size(); ++i) {
      const Ids ids = tokenizer.encode(cases[i]);
      EXPECT_EQ(ids, expected["ids"][i].get<Ids>()) << name << ": " << Json(cases[i]).dump();
      EXPECT_EQ(tokenizer.decode(ids), expected["decoded"][i].get<std::string>()) << name << i;
      Ids odd;
      for (std::size_t k = 1; k < ids.size(); k += 2) odd.push_back(ids[k]);
      EXPECT_EQ(tokenizer.decode(odd, false), expected["decoded_odd"][i].get<std::string>())
          << name << ": " << Json(cases[i]).dump();
    }
  }
}

TEST(TokenizerGolden, NormalizersAndPreTokenizersAsTheLibrary) {
  const auto cases = golden()["cases"].get<std::vector<std::string>>();
  ASSERT_GE(golden()["components"].size(), 16u);
  for (const Json& component : golden()["components"]) {
    Json file = golden()["tokenizers"]["gpt2"]["tokenizer"];
    file["normalizer"] = component["normalizer"];
    file["pre_tokenizer"] = component["pre_tokenizer"];
    const Tokenizer tokenizer = tokenizer_from_json(file, nullptr);
    for (std::size_t i = 0; i < component["ids"].size(); ++i)
      EXPECT_EQ(tokenizer.encode(cases[10 + i]), component["ids"][i].get<Ids>())
          << component["normalizer"].dump() << component["pre_tokenizer"].dump()
          << Json(cases[10 + i]).dump();
  }
}

// SentencePiece's own ids on the model that llama2.c's tok512.bin was made from.
TEST(TokenizerGolden, Llama2cVocabularyEncodesAsSentencePiece) {
  const Vocabulary vocabulary =
      read_llama2c_vocabulary(fs::path(QAD_SOURCE_DIR) / "data/stories260k/tok512.bin");
  const TokenizerFiles files = tokenizer_files(vocabulary);
  const Tokenizer tokenizer = tokenizer_from_json(files.tokenizer_json, files.tokenizer_config);
  ASSERT_GE(golden()["stories"].size(), 20u);
  for (const Json& story : golden()["stories"]) {
    Ids ids = story[1].get<Ids>();
    EXPECT_EQ(tokenizer.encode(story[0].get<std::string>(), false), ids) << story[0].dump();
    EXPECT_EQ(tokenizer.decode(ids), story[0].get<std::string>());
    ids.insert(ids.begin(), 1);
    EXPECT_EQ(tokenizer.encode(story[0].get<std::string>()), ids);
  }
  EXPECT_EQ(tokenizer.bos, 1);
  EXPECT_EQ(tokenizer.eos, 2);
}

}  // namespace
}  // namespace qad::text
