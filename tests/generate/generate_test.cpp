// Greedy text against Transformers' generate (tests/golden/models.py), and streams against whole
// decodes.
#include "generate/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "generate/golden.h"

namespace qad::generate {
namespace {

class Greedy : public ::testing::TestWithParam<const char*> {};

TEST_P(Greedy, IsTransformers) {
  Golden golden(GetParam());
  models::Model& model = golden.model;
  const auto &prompt = golden.prompt, &want = golden.greedy;
  std::vector<text::TokenId> streamed;
  const auto got = generate(model, prompt, {.max_tokens = 64}, [&](text::TokenId id) {
    streamed.push_back(id);
    return true;
  });
  EXPECT_EQ(got, want);
  EXPECT_EQ(streamed, want);

  // Stops before an eos id, and when told to.
  model.config.eos = {want[5]};
  const auto first = std::find(want.begin(), want.end(), want[5]) - want.begin();
  EXPECT_EQ(static_cast<std::ptrdiff_t>(generate(model, prompt, {.max_tokens = 64}).size()), first);
  model.config.eos.clear();
  EXPECT_EQ(generate(model, prompt, {.max_tokens = 64}, [](text::TokenId) { return false; }).size(),
            1u);
  EXPECT_THROW(generate(model, {}, {}), Error);
  EXPECT_THROW(generate(model, prompt, {.top_p = 0}), Error);
  EXPECT_THROW(generate(model, prompt, {.stop = {"a"}}), Error);  // ids have no stop strings

  // A stop token ends a text as an eos does, and a penalty of 1 is none.
  const SamplingOptions o{.max_tokens = 64, .repetition_penalty = 1, .stop_tokens = {want[5]}};
  EXPECT_EQ(static_cast<std::ptrdiff_t>(generate(model, prompt, o).size()), first);
}
INSTANTIATE_TEST_SUITE_P(Generate, Greedy,
                         ::testing::Values("llama", "llama_bias_tied", "qwen2", "qwen3_yarn",
                                           "mistral", "nemotron_h", "nemotron_h_all"),
                         [](const auto& info) { return std::string(info.param); });

// Prompt and output are penalised: each token against the likeliest of a whole forward pass with
// the rule written out.
TEST(Generate, PenalisesWhatPromptAndOutputHave) {
  const Golden golden("llama");
  const models::Model& model = golden.model;
  const auto& prompt = golden.prompt;
  const auto got = generate(model, prompt, {.max_tokens = 12, .repetition_penalty = 1.5});
  ASSERT_EQ(got.size(), 12u);
  EXPECT_NE(got, generate(model, prompt, {.max_tokens = 12}));
  auto seen = prompt;
  for (const text::TokenId id : got) {
    models::KvCache cache;
    const at::NoGradGuard no_grad;
    const at::Tensor hidden = models::forward_cached(model, seen, cache);
    at::Tensor row = models::logits(model, hidden.narrow(0, hidden.size(0) - 1, 1)).view({-1});
    row = row.to(at::kFloat).clone();
    const at::Tensor of = at::tensor(std::vector<std::int64_t>(seen.begin(), seen.end()));
    const at::Tensor score = row.index_select(0, of);
    row.index_copy_(0, of, at::where(score < 0, score * 1.5, score / 1.5));
    EXPECT_EQ(id, row.argmax().item<std::int64_t>());
    seen.push_back(id);
  }
}

// GPT-2's byte alphabet for the bytes used here: each byte is one token, so every character of more
// than one byte is cut.
text::Tokenizer byte_tokenizer() {
  Json vocab = Json::object();
  const auto add = [&](const std::string& token) { vocab[token] = vocab.size(); };
  int shifted = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = printable ? byte : 256 + shifted++;
    std::string utf8;
    if (code < 0x80) {
      utf8 = static_cast<char>(code);
    } else {
      utf8 += static_cast<char>(0xC0 | code >> 6);
      utf8 += static_cast<char>(0x80 | (code & 0x3F));
    }
    add(utf8);
  }
  const Json file = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", Json::array()},
                     {"normalizer", nullptr},
                     {"pre_tokenizer",
                      {{"type", "ByteLevel"},
                       {"add_prefix_space", false},
                       {"trim_offsets", true},
                       {"use_regex", true}}},
                     {"post_processor", nullptr},
                     {"decoder",
                      {{"type", "ByteLevel"},
                       {"add_prefix_space", true},
                       {"trim_offsets", true},
                       {"use_regex", true}}},
                     {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
  return text::tokenizer_from_json(file, Json::object());
}

// The golden model's 96 ids are the bytes below 96 to the byte tokenizer.
TEST(GenerateText, EndsBeforeAStopString) {
  const Golden golden("llama");
  const models::Model& model = golden.model;
  const auto &prompt = golden.prompt, &ids = golden.greedy;
  const std::string whole(ids.begin(), ids.end());
  const auto made = [&](const SamplingOptions& o) {
    std::string text;
    generate_text(model, byte_tokenizer(), prompt, o, [&](const std::string& piece) {
      EXPECT_FALSE(piece.empty());
      text += piece;
    });
    return text;
  };
  const auto most = static_cast<std::int64_t>(ids.size());
  EXPECT_EQ(made({.max_tokens = most}), whole);
  const std::string stop = whole.substr(7, 3);  // three tokens
  EXPECT_EQ(made({.max_tokens = most, .stop = {stop}}), whole.substr(0, whole.find(stop)));
  // One that never comes is held back and given at the end.
  EXPECT_EQ(made({.max_tokens = most, .stop = {whole.substr(most - 2) + "!"}}), whole);
  EXPECT_THROW(made({.stop = {""}}), Error);
}

TEST(TextStream, NeverCutsACharacter) {
  const auto tokenizer = byte_tokenizer();
  const std::string text = "a \xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80!";
  const auto ids = tokenizer.encode(text);
  ASSERT_EQ(ids.size(), text.size());  // one byte each
  TextStream stream(tokenizer, tokenizer.encode("So: "));
  std::string all;
  for (const text::TokenId id : ids) {
    const std::string piece = stream.next(id);
    EXPECT_EQ(piece.find("\xEF\xBF\xBD"), piece.npos);
    all += piece;
  }
  EXPECT_EQ(all, text);
  EXPECT_EQ(stream.rest(), "");
}

TEST(TextStream, GivesAnUnfinishedCharacterAtTheEnd) {
  const auto tokenizer = byte_tokenizer();
  const auto ids = tokenizer.encode("\xE2\x82\xAC");
  TextStream stream(tokenizer, {});
  EXPECT_EQ(stream.next(ids[0]), "");
  EXPECT_EQ(stream.next(ids[1]), "");
  EXPECT_EQ(stream.rest(), "\xEF\xBF\xBD");
}

}  // namespace
}  // namespace qad::generate
