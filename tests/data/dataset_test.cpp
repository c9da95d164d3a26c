// Reading of data files: special tokens, masks, and errors that name the line.
#include "data/dataset.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include "core/error.h"
#include "data/tiny_tokenizer.h"

namespace qad::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Document> read(const std::string& name, const std::string& content,
                           const text::Tokenizer& tokenizer, const RenderOptions& options = {}) {
  const fs::path folder = fs::path(::testing::TempDir()) / fmt::format("qad_data_{}", ::getpid());
  fs::create_directories(folder);
  struct Remove {
    fs::path path;
    ~Remove() { fs::remove_all(path); }
  } remove{folder};
  write_file(folder / name, content);
  return read_documents(folder / name, tokenizer, options);
}

std::string error_of(const std::string& name, const std::string& content,
                     const text::Tokenizer& tokenizer, const RenderOptions& options = {}) {
  try {
    read(name, content, tokenizer, options);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

// The text of the tokens that count.
std::string counted(const Document& d, const text::Tokenizer& tokenizer) {
  std::vector<text::TokenId> ids;
  for (std::size_t i = 0; i < d.ids.size(); ++i)
    if (d.counts[i]) ids.push_back(d.ids[i]);
  return tokenizer.decode(ids, false);
}

TEST(Dataset, TextIsSplitTrimmedAndFramed) {
  RenderOptions options;
  options.eos = true;
  const auto documents =
      read("a.txt", "\n abc \n<|endoftext|>\n  \n<|endoftext|>xyz<|endoftext|>\n", tiny_tokenizer(),
           options);
  ASSERT_EQ(documents.size(), 2);
  EXPECT_THAT(documents[0].ids, ElementsAre(97, 'a' - '!', 'b' - '!', 'c' - '!', 98));
  EXPECT_THAT(documents[1].ids, ElementsAre(97, 96, 'z' - '!', 98));
  EXPECT_THAT(documents[1].counts, ElementsAre(1, 1, 1, 1));
}

TEST(Dataset, TokenIdsAreTakenAsTheyAre) {
  RenderOptions options;
  options.eos = true;
  const auto documents = read("a.jsonl",
                              "{\"input_ids\": [5, 0, 7]}\n"
                              "{\"input_ids\": [5, 6, 7], \"labels\": [-100, 6, -100]}\n",
                              tiny_tokenizer(), options);
  ASSERT_EQ(documents.size(), 2);
  EXPECT_THAT(documents[0].ids, ElementsAre(5, 0, 7));
  EXPECT_THAT(documents[0].counts, ElementsAre(1, 1, 1));
  EXPECT_THAT(documents[1].ids, ElementsAre(5, 6, 7));
  EXPECT_THAT(documents[1].counts, ElementsAre(0, 1, 0));
}

TEST(Dataset, NoEosUnlessAskedForAndNoMoreDocuments) {
  RenderOptions options;
  options.max_documents = 2;
  const auto documents = read("a.txt", "a<|endoftext|>b<|endoftext|>c", tiny_tokenizer(), options);
  ASSERT_EQ(documents.size(), 2);
  EXPECT_THAT(documents[1].ids, ElementsAre(97, 'b' - '!'));
}

TEST(Dataset, PlainJsonLines) {
  const auto tokenizer = tiny_tokenizer();
  RenderOptions options;
  options.eos = true;
  const auto documents =
      read("a.jsonl", "{\"text\": \" a\"}\n{\"prompt\": \"p\", \"response\": \"r\", \"k\": 1}",
           tokenizer, options);
  ASSERT_EQ(documents.size(), 2);
  EXPECT_EQ(tokenizer.decode(documents[0].ids, false), "<s> a</s>");
  EXPECT_EQ(tokenizer.decode(documents[1].ids, false), "<s>pr</s>");
}

constexpr const char* kConversation =
    R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ab"},)"
    R"( {"role": "user", "content": "more"}, {"role": "assistant", "content": "cd"}]})";

TEST(Dataset, ChatsAreRenderedWithoutFurtherSpecialTokens) {
  const auto tokenizer = tiny_tokenizer(kChatMl);
  const auto documents = read("a.jsonl", kConversation, tokenizer);
  EXPECT_EQ(counted(documents[0], tokenizer),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nab<|im_end|>\n"
            "<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\ncd<|im_end|>\n");
}

TEST(Dataset, PromptAndResponseAreAChatWhereThereIsATemplate) {
  const auto tokenizer = tiny_tokenizer(kChatMl);
  const auto documents = read("a.jsonl", R"({"prompt": "p", "response": "r"})", tokenizer);
  EXPECT_EQ(counted(documents[0], tokenizer),
            "<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\nr<|im_end|>\n");
}

RenderOptions assistant() {
  RenderOptions options;
  options.mask = Mask::assistant;
  return options;
}

TEST(Dataset, AssistantMaskByPrefixes) {
  const auto tokenizer = tiny_tokenizer(kChatMl);
  const auto documents = read("a.jsonl", kConversation, tokenizer, assistant());
  EXPECT_EQ(counted(documents[0], tokenizer), "ab<|im_end|>\ncd<|im_end|>\n");
}

TEST(Dataset, AssistantMaskByGenerationBlocks) {
  const auto tokenizer = tiny_tokenizer(kChatMlGeneration);
  const auto documents = read("a.jsonl", kConversation, tokenizer, assistant());
  EXPECT_EQ(counted(documents[0], tokenizer), "ab<|im_end|>cd<|im_end|>");
}

TEST(Dataset, ATokenAcrossTheBoundaryCounts) {
  RenderOptions options = assistant();
  options.eos = true;
  const auto documents =
      read("a.jsonl", R"({"prompt": "ax", "response": "yb"})", tiny_tokenizer(), options);
  EXPECT_THAT(documents[0].ids, ElementsAre(97, 'a' - '!', 96, 'b' - '!', 98));
  EXPECT_THAT(documents[0].counts, ElementsAre(0, 0, 1, 1, 1));
}

TEST(Dataset, ErrorsNameFileAndLine) {
  const auto plain = tiny_tokenizer(), chat = tiny_tokenizer(kChatMl);
  const RenderOptions all, masked = assistant();
  const struct {
    const char *name, *content;
    const text::Tokenizer& tokenizer;
    const RenderOptions& options;
    const char *where, *what;
  } cases[] = {
      {"a.txt", "", plain, all, "a.txt:1:", "empty"},
      {"a.txt", " \n<|endoftext|>\n", plain, all, "a.txt:1:", "empty"},
      {"a.jsonl", "", plain, all, "a.jsonl:1:", "empty"},
      {"a.jsonl", "{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n", plain, all, "a.jsonl:2:", "is empty"},
      {"a.jsonl", "{\"text\": \"a\"}\n{\"text\": \n", plain, all, "a.jsonl:2:", "parse_json"},
      {"a.jsonl", "[1]", plain, all, "a.jsonl:1:", "expected an object"},
      {"a.jsonl", "{\"input_ids\": []}", plain, all, "a.jsonl:1:", "'input_ids' is empty"},
      {"a.jsonl", "{\"input_ids\": [1, 2.5]}", plain, all, "a.jsonl:1:", "whole numbers"},
      {"a.jsonl", "{\"input_ids\": [1, -1]}", plain, all, "a.jsonl:1:", "found -1"},
      {"a.jsonl", "{\"input_ids\": [1, 2], \"labels\": [1]}", plain, all, "a.jsonl:1:", "found 1"},
      {"a.jsonl", "{\"input_ids\": [1, 2], \"labels\": [1, 3]}", plain, all,
       "a.jsonl:1:", "at place 1, found 3"},
      {"a.jsonl", "{\"txt\": \"a\"}", plain, all, "a.jsonl:1:", "expected 'text'"},
      {"a.jsonl", "{\"text\": 1}", plain, all, "a.jsonl:1:", "to be a string"},
      {"a.jsonl", "{\"text\": \"\"}", plain, all, "a.jsonl:1:", "'text' is empty"},
      {"a.jsonl", R"({"prompt": "p", "response": ""})", plain, all, "a.jsonl:1:", "'response'"},
      {"a.jsonl", R"({"messages": []})", chat, all, "a.jsonl:1:", "at least one message"},
      {"a.jsonl", R"({"messages": [{"content": "a"}]})", chat, all, "a.jsonl:1:", "'role'"},
      {"a.jsonl", kConversation, plain, all, "a.jsonl:1:", "chat template"},
      {"a.jsonl", R"({"messages": [{"role": "user", "content": "a"}]})", chat, masked,
       "a.jsonl:1:", "the assistant says nothing"},
      {"a.txt", "a<|endoftext|>\n", plain, masked, "a.txt:1:", "mask"},
      {"a.csv", "a", plain, all, "a.csv:", ".jsonl"},
  };
  for (const auto& c : cases)
    EXPECT_THAT(error_of(c.name, c.content, c.tokenizer, c.options),
                ::testing::AllOf(HasSubstr("[read_data]"), HasSubstr(c.where), HasSubstr(c.what)))
        << c.content;
}

TEST(Dataset, ATemplateThatRewritesEarlierTurnsCannotBeMasked) {
  const auto tokenizer = tiny_tokenizer(
      "{% for m in messages %}{{ m['role'] }}:{% if loop.last %}last {% endif %}"
      "{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}");
  EXPECT_THAT(error_of("a.jsonl", kConversation, tokenizer, assistant()),
              HasSubstr("{% generation %}"));
}

}  // namespace
}  // namespace qad::data
