// Greedy text against Transformers' generate (tests/golden/models.py), sampling against the
// distribution, and streams against whole decodes.
#include "generate/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "checkpoint/safetensors.h"
#include "core/error.h"

namespace qad::generate {
namespace {

const fs::path kGolden = fs::path(QAD_SOURCE_DIR) / "tests/golden/models";

std::vector<text::TokenId> ids_in(const fs::path& file, std::string_view name) {
  const auto read = checkpoint::read_safetensors(file);
  for (const checkpoint::Tensor& t : read.tensors) {
    if (t.name != name) continue;
    std::vector<std::int64_t> ids(static_cast<std::size_t>(t.elements()));
    std::memcpy(ids.data(), t.raw.data(), t.raw.size());
    return {ids.begin(), ids.end()};
  }
  throw Error("no such tensor");
}

class Greedy : public ::testing::TestWithParam<const char*> {};

TEST_P(Greedy, IsTransformers) {
  const fs::path folder = kGolden / GetParam();
  models::Model model = models::load(checkpoint::open(folder));
  model.config.eos.clear();
  const auto prompt = ids_in(folder / "expected.safetensors", "ids1");
  std::vector<text::TokenId> streamed;
  const auto got = generate(model, prompt, {.max_tokens = 64}, [&](text::TokenId id) {
    streamed.push_back(id);
    return true;
  });
  const auto want = ids_in(folder / "expected.safetensors", "greedy");
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
}
INSTANTIATE_TEST_SUITE_P(Generate, Greedy,
                         ::testing::Values("llama", "llama_bias_tied", "qwen2", "qwen3_yarn",
                                           "mistral"),
                         [](const auto& info) { return std::string(info.param); });

std::map<text::TokenId, int> draw(const at::Tensor& logits, const SamplingOptions& o, int n) {
  std::map<text::TokenId, int> counts;
  for (int i = 0; i < n; ++i) ++counts[sample(logits, o, i)];
  return counts;
}

TEST(Sample, FollowsTheDistribution) {
  const at::Tensor logits = at::log(at::tensor({0.5f, 0.3f, 0.15f, 0.05f}));
  auto counts = draw(logits, {.temperature = 1, .seed = 3}, 10'000);
  const double p[] = {0.5, 0.3, 0.15, 0.05};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(counts[i], 10'000 * p[i], 250) << i;  // 5 deviations
  // Half the temperature squares the odds: 0.25 to 0.09.
  counts = draw(logits, {.temperature = 0.5, .top_k = 2, .seed = 3}, 10'000);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_NEAR(counts[0], 10'000 * 0.25 / 0.34, 250);
  // The fewest tokens that reach 0.7 are two; 0.4 needs one.
  EXPECT_EQ(draw(logits, {.temperature = 1, .top_p = 0.7}, 1000).size(), 2u);
  EXPECT_EQ(draw(logits, {.temperature = 1, .top_p = 0.4}, 1000).size(), 1u);
}

TEST(Sample, IsRepeatableAndRefusesNaN) {
  const at::Tensor logits = at::zeros({50});
  EXPECT_EQ(sample(logits, {.temperature = 1, .seed = 1}, 9),
            sample(logits, {.temperature = 1, .seed = 1}, 9));
  EXPECT_EQ(sample(logits, {}, 0), 0);  // the first of equals
  EXPECT_THROW(sample(at::full({3}, NAN), {}, 0), Error);
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
