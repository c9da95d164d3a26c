// What the library cannot say: files that must be refused, tokenizer_config.json, folders,
// fingerprints.
#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace qad::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json small() {
  return parse_json(R"({"added_tokens":[{"id":4,"content":"<end>","special":true}],
    "normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":{"type":"Fuse"},
    "model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"aba":3},"merges":["a b","ab a"]}})",
                    "test");
}

std::string refusal(const Json& file) {
  try {
    tokenizer_from_json(file, nullptr);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

Json with(std::string_view pointer, Json value) {
  Json file = small();
  file[Json::json_pointer(std::string(pointer))] = std::move(value);
  return file;
}

TEST(Tokenizer, MergesByRankAndFindsAddedTokens) {
  const Tokenizer t = tokenizer_from_json(small(), nullptr);
  EXPECT_THAT(t.encode("abab<end>aba"), ElementsAre(2, 2, 4, 3));
  EXPECT_EQ(t.decode(t.encode("abab<end>aba")), "abababa");
  EXPECT_EQ(t.decode(t.encode("ab<end>"), false), "ab<end>");
  EXPECT_EQ(t.vocab_size(), 5);
  EXPECT_EQ(t.id_of("aba"), 3);
  EXPECT_EQ(t.id_of("<end>"), 4);
  EXPECT_EQ(t.id_of("c"), std::nullopt);
  EXPECT_EQ(t.token_of(2), "ab");
}

TEST(Tokenizer, LongWordsMergeLikeShortOnes) {
  // Long pieces go through a heap, short ones through a scan.
  const Tokenizer t = tokenizer_from_json(small(), nullptr);
  for (const std::size_t n : {1, 2, 15, 16, 17, 500}) {
    std::string text;
    for (std::size_t i = 0; i < n; ++i) text += "aba";
    EXPECT_EQ(t.encode(text), std::vector<TokenId>(n, 3)) << n;
  }
}

TEST(Tokenizer, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(refusal(with("/normalizer", {{"type", "Precompiled"}})),
              HasSubstr("\"Precompiled\""));
  EXPECT_THAT(refusal(with("/pre_tokenizer", {{"type", "Bert"}})), HasSubstr("\"Bert\""));
  EXPECT_THAT(refusal(with("/post_processor", {{"type", "Odd"}})), HasSubstr("\"Odd\""));
  EXPECT_THAT(refusal(with("/decoder", {{"type", "WordPiece"}})), HasSubstr("\"WordPiece\""));
  EXPECT_THAT(refusal(with("/model/type", "Unigram")), HasSubstr("\"Unigram\""));
  EXPECT_THAT(refusal(with("/model/dropout", 0.1)), HasSubstr("dropout"));
  EXPECT_THAT(refusal(with("/model/end_of_word_suffix", "</w>")), HasSubstr("</w>"));
  EXPECT_THAT(refusal(with("/model/merges", {"a b", "b zz"})), HasSubstr("\"zz\""));
  EXPECT_THAT(refusal(with("/model/merges", {"ab"})), HasSubstr("one space"));
  EXPECT_THAT(refusal(with("/model/vocab/b", 0)), HasSubstr("share id 0"));
  EXPECT_THAT(refusal(with("/model/vocab/b", 2000000000)), HasSubstr("2^30"));
  EXPECT_THAT(refusal(with("/added_tokens/0/id", 1)), HasSubstr("belongs to \"b\""));
  for (const char* pattern : {"[a", "(?m)a", "[a[b]]", "[\\w&&a]", "a{2}+"})
    EXPECT_THAT(refusal(with("/pre_tokenizer", {{"type", "Split"},
                                                {"pattern", {{"Regex", pattern}}},
                                                {"behavior", "Isolated"}})),
                HasSubstr(pattern));
  EXPECT_THAT(refusal(Json::array()), HasSubstr("object"));
}

TEST(Tokenizer, RepairsBytesThatAreNoUtf8) {
  Json file = with("/model/vocab/\uFFFD", 5);
  const Tokenizer t = tokenizer_from_json(file, nullptr);
  EXPECT_THAT(t.encode("a\xFF\xE2\x82z\xF0\x9F\x98"), ElementsAre(0, 5, 5, 5));
}

TEST(Tokenizer, UnknownIdsAreErrors) {
  const Tokenizer t = tokenizer_from_json(small(), nullptr);
  EXPECT_THROW(t.decode(std::vector<TokenId>{5}), Error);
  EXPECT_THROW(t.decode(std::vector<TokenId>{-1}), Error);
}

// The two bytes of U+00E9 in GPT-2's alphabet are U+00C3 and U+00A9, a space is U+0120.
TEST(Tokenizer, TokensAreBytes) {
  Json file = with("/model/vocab/\u0120a\u00C3", 5);
  file["model"]["vocab"]["\u00A9"] = 6;
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  const Tokenizer bytes = tokenizer_from_json(file, nullptr);
  EXPECT_EQ(bytes.bytes_of(5), " a\xC3");
  EXPECT_EQ(bytes.bytes_of(6), "\xA9");
  EXPECT_EQ(bytes.bytes_of(4), "<end>");
  file = with("/model/vocab/\u2581a", 5);
  file["model"]["vocab"]["<0xC3>"] = 6;
  const Tokenizer pieces = tokenizer_from_json(file, nullptr);
  EXPECT_EQ(pieces.bytes_of(5), " a");
  EXPECT_EQ(pieces.bytes_of(6), "\xC3");
  EXPECT_THROW(pieces.bytes_of(7), Error);
}

TEST(Tokenizer, ConfigNamesSpecialTokensAndTheTemplate) {
  const Json config =
      parse_json(R"({"bos_token":{"content":"a"},"eos_token":"<end>","pad_token":null,
    "add_bos_token":true,"chat_template":[{"name":"tool_use","template":"T"},
    {"name":"default","template":"D"}]})",
                 "test");
  const Tokenizer t = tokenizer_from_json(small(), config);
  EXPECT_EQ(t.bos, 0);
  EXPECT_EQ(t.eos, 4);
  EXPECT_EQ(t.chat_template, "D");
  EXPECT_EQ(t.special_tokens, (Json{{"bos_token", "a"}, {"eos_token", "<end>"}}));
}

TEST(Tokenizer, FingerprintTellsVocabulariesApart) {
  const auto print = [](const Json& file) {
    return tokenizer_from_json(file, nullptr).fingerprint();
  };
  EXPECT_EQ(print(small()), print(small()));
  EXPECT_NE(print(small()), print(with("/model/merges", {"ab a", "a b"})));
  EXPECT_NE(print(small()), print(with("/added_tokens/0/content", "<stop>")));
}

TEST(Tokenizer, ReadsFolders) {
  const fs::path folder = fs::path(::testing::TempDir()) / "qad_tokenizer_folder";
  fs::remove_all(folder);
  fs::create_directories(folder);
  EXPECT_THROW(load_tokenizer(folder), Error);
  write_file(folder / "vocab.json", R"({"a":0,"b":1,"ab":2,"\u0120":3})");
  write_file(folder / "merges.txt", "#version: 0.2\na b\n");
  EXPECT_THROW(load_tokenizer(folder), Error);  // no tokenizer_class
  write_file(folder / "tokenizer_config.json", R"({"tokenizer_class":"GPT2Tokenizer",
    "eos_token":"<e>","added_tokens_decoder":{"4":{"content":"<e>","special":true}}})");
  EXPECT_THAT(load_tokenizer(folder).encode("ab b<e>"), ElementsAre(2, 3, 1, 4));
  EXPECT_EQ(load_tokenizer(folder).eos, 4);
  // tokenizer.json and chat_template.jinja go before the older files.
  write_file(folder / "tokenizer.json", small().dump());
  write_file(folder / "chat_template.jinja", "{{ x }}");
  EXPECT_THAT(load_tokenizer(folder).encode("aba"), ElementsAre(3));
  EXPECT_EQ(load_tokenizer(folder).chat_template, "{{ x }}");
  fs::remove_all(folder);
}

Vocabulary gguf_vocabulary() {
  Vocabulary v;
  v.model = "gpt2";
  v.pre = "gpt-2";
  v.tokens = {"a", "b", "ab", "<e>", "<u>"};
  v.types = {1, 1, 1, 3, 4};
  v.merges = {"a b"};
  v.eos = 3;
  return v;
}

TEST(Vocabulary, MakesTokenizerJson) {
  Vocabulary v = gguf_vocabulary();
  v.bos = 3;
  v.add_bos = v.add_eos = true;
  const TokenizerFiles files = tokenizer_files(v);
  const Tokenizer t = tokenizer_from_json(files.tokenizer_json, files.tokenizer_config);
  EXPECT_THAT(t.encode("ab<u>b"), ElementsAre(3, 2, 4, 1, 3));
  EXPECT_EQ(t.decode(t.encode("ab<u>b")), "ab<u>b");  // user-defined tokens are not special
  EXPECT_EQ(t.eos, 3);
}

TEST(Vocabulary, RefusesWhatCannotBe) {
  const auto broken = [](auto change) {
    Vocabulary v = gguf_vocabulary();
    change(v);
    EXPECT_THROW(tokenizer_files(v), Error);
  };
  broken([](Vocabulary& v) { v.pre = "unheard-of"; });
  broken([](Vocabulary& v) { v.model = "t5"; });
  broken([](Vocabulary& v) { v.types.pop_back(); });
  broken([](Vocabulary& v) { v.eos = 5; });
  broken([](Vocabulary& v) { v.add_bos = true; });
  broken([](Vocabulary& v) { v.tokens[0] = "\xFF"; });
  broken([](Vocabulary& v) { v.merges = {"ab"}; });
  broken([](Vocabulary& v) { v.model = "llama"; });  // no scores

  const fs::path cut = fs::path(::testing::TempDir()) / "qad_cut_tokenizer.bin";
  const std::string whole = read_text(fs::path(QAD_SOURCE_DIR) / "data/stories260k/tok512.bin");
  write_file(cut, whole.substr(0, whole.size() - 1));
  EXPECT_THROW(read_llama2c_vocabulary(cut), Error);
  fs::remove(cut);
}

}  // namespace
}  // namespace qad::text
