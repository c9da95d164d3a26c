#include "text/gguf_tokenizer.h"

#include <gmock/gmock.h>

#include "core/scratch.h"
#include "text/model_files.h"

namespace qad::text {
namespace {

using testing::HasSubstr;

Vocabulary byte_level(const std::string& pre) {
  Vocabulary v;
  v.model = "gpt2";
  v.pre = pre;
  v.tokens = {"a", "b", "\u0120", "ab", "\u0120ab", "<|end|>", "<tool>", "[PAD7]"};
  v.types = {1, 1, 1, 1, 1, 3, 4, 5};
  v.merges = {"a b", "\u0120 ab"};
  v.eos = 5;
  v.bos = 5;
  v.pad = 5;
  v.add_bos = pre == "llama-bpe";
  v.chat_template = "{{ messages }}";
  return v;
}

// From GGUF's words to tokenizer.json and back gives the same words.
TEST(GgufTokenizer, OfByteLevelVocabulariesIsWhatItWasMadeFrom) {
  for (const char* pre : {"qwen2", "llama-bpe", "smollm", "gpt-2", "tekken", "deepseek-v3"}) {
    const Vocabulary v = byte_level(pre);
    const TokenizerFiles files = tokenizer_files(v);
    const Json keys = gguf_tokenizer(files.tokenizer_json, files.tokenizer_config, 8);
    EXPECT_EQ(keys["tokenizer.ggml.model"], "gpt2");
    EXPECT_EQ(keys["tokenizer.ggml.pre"], pre);
    EXPECT_EQ(keys["tokenizer.ggml.tokens"], Json(v.tokens));
    Json types = v.types;
    types[7] = 1;  // tokenizer.json lists it as any other
    EXPECT_EQ(keys["tokenizer.ggml.token_type"], types);
    EXPECT_EQ(keys["tokenizer.ggml.merges"], Json(v.merges));
    EXPECT_EQ(keys["tokenizer.ggml.eos_token_id"], 5);
    EXPECT_TRUE(keys["tokenizer.ggml.eos_token_id"].is_number_unsigned());
    EXPECT_EQ(keys["tokenizer.ggml.padding_token_id"], 5);
    EXPECT_EQ(keys["tokenizer.ggml.add_bos_token"], v.add_bos) << pre;
    EXPECT_EQ(keys["tokenizer.chat_template"], v.chat_template);
    EXPECT_FALSE(keys.contains("tokenizer.ggml.scores"));
  }
}

TEST(GgufTokenizer, HasATokenForEveryRowOfTheEmbedding) {
  const TokenizerFiles files = tokenizer_files(byte_level("qwen2"));
  const Json keys = gguf_tokenizer(files.tokenizer_json, files.tokenizer_config, 10);
  EXPECT_EQ(keys["tokenizer.ggml.tokens"].size(), 10u);
  EXPECT_EQ(keys["tokenizer.ggml.tokens"][9], "[PAD9]");
  EXPECT_EQ(keys["tokenizer.ggml.token_type"][9], 5);
}

TEST(GgufTokenizer, OfSentencePieceMergesInTheSameOrder) {
  const auto source =
      checkpoint::open(fs::path(QAD_SOURCE_DIR) / "data/stories260k/stories260K.bin");
  const Json keys = gguf_tokenizer(source);
  EXPECT_EQ(keys["tokenizer.ggml.model"], "llama");
  EXPECT_EQ(keys["tokenizer.ggml.bos_token_id"], 1);
  EXPECT_EQ(keys["tokenizer.ggml.add_bos_token"], true);
  EXPECT_EQ(keys["tokenizer.ggml.add_space_prefix"], true);
  EXPECT_EQ(keys["tokenizer.ggml.token_type"][0], 2);
  EXPECT_EQ(keys["tokenizer.ggml.token_type"][1], 3);
  EXPECT_EQ(keys["tokenizer.ggml.token_type"][3], 6);
  Vocabulary v;
  v.model = "llama";
  v.tokens = keys["tokenizer.ggml.tokens"].get<std::vector<std::string>>();
  v.scores = keys["tokenizer.ggml.scores"].get<std::vector<float>>();
  v.types = keys["tokenizer.ggml.token_type"].get<std::vector<std::int32_t>>();
  v.unk = 0, v.bos = 1, v.eos = 2, v.add_bos = true;
  const TokenizerFiles again = tokenizer_files(v);
  const Tokenizer ours = tokenizer_from_json(again.tokenizer_json, again.tokenizer_config);
  EXPECT_EQ(ours.fingerprint(), tokenizer_of(source).fingerprint());
}

TEST(GgufTokenizer, RefusesASplitWithoutAName) {
  TokenizerFiles files = tokenizer_files(byte_level("qwen2"));
  files.tokenizer_json["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_THAT(error_of([&] { gguf_tokenizer(files.tokenizer_json, files.tokenizer_config, 8); }),
              HasSubstr("a GGUF names them"));
}

}  // namespace
}  // namespace qad::text
