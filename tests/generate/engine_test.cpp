// Texts in batches against Transformers' greedy ones and against the same texts alone: whatever
// else is in the batch, however prompts are cut, whoever has to give up pages.
#include "generate/engine.h"

#include <gmock/gmock.h>

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/random.h"
#include "generate/golden.h"

namespace qad::generate {
namespace {

using Ids = std::vector<text::TokenId>;

Ids random_prompt(const models::Model& model, std::uint64_t seed, std::uint64_t length) {
  Ids ids;
  Random random{seed, 0};
  for (std::uint64_t i = 0; i < length; ++i)
    ids.push_back(static_cast<text::TokenId>(
        random.below(static_cast<std::uint64_t>(model.config.vocabulary))));
  return ids;
}

// The texts of all requests, in their order.
std::vector<Ids> write(const models::Model& model, const EngineOptions& options,
                       const std::vector<Request>& requests, Engine::Counts* counts = nullptr) {
  Engine engine(model, options);
  std::vector<Ids> texts(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Request r = requests[i];
    r.done = [&texts, i](Finish, const Ids& text) { texts[i] = text; };
    engine.add(std::move(r));
  }
  while (engine.step()) {
  }
  EXPECT_EQ(engine.running() + engine.waiting(), 0);
  if (counts != nullptr) *counts = engine.counts();
  return texts;
}

class Batches : public ::testing::TestWithParam<const char*> {};

TEST_P(Batches, WriteWhatTransformersWrites) {
  const Golden golden(GetParam());
  const Request wanted{golden.prompt, {.max_tokens = 64}, {}, {}};
  std::vector<Request> requests;
  for (std::uint64_t i = 0; i < 9; ++i)
    requests.push_back({random_prompt(golden.model, i, 1 + 7 * i),
                        {.max_tokens = static_cast<std::int64_t>(20 + 9 * i), .temperature = 1},
                        {},
                        {}});
  requests.insert(requests.begin() + 4, wanted);
  const double page = models::bytes_of_page(golden.model, 4);
  Engine::Counts counts;
  const double states = 10 * models::bytes_of_slot(golden.model);
  const double much = 1000 * page + states, little = 60 * page + states;
  const EngineOptions roomy{.page_tokens = 4, .cache_bytes = much},
      pieces{.most_sequences = 4, .most_tokens = 5, .page_tokens = 4, .cache_bytes = much},
      tight{.page_tokens = 4, .cache_bytes = little};
  for (const EngineOptions& options : {roomy, pieces, tight}) {
    const auto texts = write(golden.model, options, requests, &counts);
    EXPECT_EQ(texts[4], golden.greedy) << options.cache_bytes << " " << options.most_tokens;
    EXPECT_EQ(counts.preemptions > 0, options.cache_bytes == little);
  }
}
INSTANTIATE_TEST_SUITE_P(Engine, Batches,
                         ::testing::Values("llama", "llama_bias_tied", "qwen2", "qwen3_yarn",
                                           "mistral", "nemotron_h", "nemotron_h_all"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Engine, ATextIsTheSameAloneAndInCompany) {
  const Golden golden("llama");
  std::vector<Request> requests;
  for (std::uint64_t i = 0; i < 12; ++i)
    requests.push_back({random_prompt(golden.model, i % 3, 30),
                        {.max_tokens = 25, .temperature = 0.9, .top_p = 0.9, .seed = i},
                        {},
                        {}});
  const auto together = write(golden.model, {}, requests);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(write(golden.model, {}, {requests[i]})[0], together[i]) << i;
    if (i < 3) continue;
    EXPECT_NE(together[i], together[i - 3]) << "seeds differ";
  }
}

TEST(Engine, ABeginningThatWasReadBeforeIsNotReadAgain) {
  const Golden golden("qwen2");
  Engine engine(golden.model, {.page_tokens = 4});
  Ids texts[2];
  const Ids prompt = random_prompt(golden.model, 5, 22);
  for (Ids& text : texts) {
    engine.add({prompt, {.max_tokens = 10}, {}, [&](Finish f, const Ids& ids) {
                  EXPECT_EQ(f, Finish::length);
                  text = ids;
                }});
    while (engine.step()) {
    }
  }
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_EQ(engine.counts().reused_tokens, 20);  // five full pages of 22 tokens
  EXPECT_EQ(engine.counts().new_tokens, 20);
}

// A state is that of a text's last token, so who begins alike is read alike.
TEST(Engine, BeginningsOfModelsWithStatesAreReadAgain) {
  const Golden golden("nemotron_h");
  const double page = models::bytes_of_page(golden.model, 4);
  const double slot = models::bytes_of_slot(golden.model);
  // Three layers: 3 inputs of 96 channels, and 4 heads of 8 x 16.
  EXPECT_EQ(slot, 3 * (3 * 96 + 4 * 8 * 16) * 4);
  const std::vector<Request> requests(3, {golden.prompt, {.max_tokens = 64}, {}, {}});
  Engine::Counts counts;
  const EngineOptions options{.page_tokens = 4, .cache_bytes = 100 * page + 2 * slot};
  for (const auto& text : write(golden.model, options, requests, &counts))
    EXPECT_EQ(text, golden.greedy);
  EXPECT_EQ(counts.reused_tokens, 0);
  // States take half the cache at most: two of three texts have them at once.
  Engine engine(golden.model, {.page_tokens = 4, .cache_bytes = 4.5 * slot});
  for (const Request& r : requests) engine.add({r.prompt, {.max_tokens = 2}, {}, {}});
  engine.step();
  EXPECT_EQ(engine.running(), 2);
  EXPECT_EQ(engine.waiting(), 1);
  EXPECT_THROW(Engine(golden.model, {.page_tokens = 4, .cache_bytes = slot}), Error);
}

TEST(Engine, EndsAtStopTokensWhenToldAndWhenCancelled) {
  Golden golden("llama");
  std::map<std::string, std::pair<Finish, std::size_t>> ended;
  const auto noting = [&](const char* name) {
    return [&ended, name](Finish f, const Ids& ids) { ended[name] = {f, ids.size()}; };
  };
  Engine engine(golden.model, {});
  const auto first = std::find(golden.greedy.begin(), golden.greedy.end(), golden.greedy[5]);
  SamplingOptions stop{.max_tokens = 64};
  stop.stop_tokens = {golden.greedy[5]};
  engine.add({golden.prompt, stop, {}, noting("stop token")});
  engine.add(
      {golden.prompt, {.max_tokens = 64}, [](text::TokenId) { return false; }, noting("told")});
  engine.add({golden.prompt, {.max_tokens = 0}, {}, noting("nothing")});
  const auto cancelled = engine.add({golden.prompt, {.max_tokens = 64}, {}, noting("cancelled")});
  engine.step();
  engine.cancel(cancelled);
  while (engine.step()) {
  }
  using Pair = std::pair<Finish, std::size_t>;
  EXPECT_EQ(ended.at("stop token"),
            Pair(Finish::stop, static_cast<std::size_t>(first - golden.greedy.begin())));
  EXPECT_EQ(ended.at("told"), Pair(Finish::stop, 1));
  EXPECT_EQ(ended.at("nothing"), Pair(Finish::length, 0));
  EXPECT_EQ(ended.at("cancelled"), Pair(Finish::cancelled, 1));

  EXPECT_THROW(engine.add({{}, {}, {}, {}}), Error);
  EXPECT_THROW(
      engine.add({{static_cast<text::TokenId>(golden.model.config.vocabulary)}, {}, {}, {}}),
      Error);
  EXPECT_THROW(engine.add({{1}, {.max_tokens = 1 << 30}, {}, {}}), Error);
}

// log softmax of Transformers' logits.
double expected_log_prob(const Golden& golden, std::size_t row, text::TokenId id) {
  const auto width = static_cast<std::size_t>(golden.model.config.vocabulary);
  const float* logits = golden.logits.data() + row * width;
  double sum = 0;
  for (std::size_t i = 0; i < width; ++i) sum += std::exp(static_cast<double>(logits[i]));
  return static_cast<double>(logits[id]) - std::log(sum);
}

TEST(Engine, TellsLogProbabilitiesOfPromptAndText) {
  const Golden golden("llama");
  for (const std::int64_t most_tokens : {512, 2}) {  // the prompt in one piece and in several
    Engine engine(golden.model, {.most_tokens = most_tokens, .page_tokens = 2});
    for (const std::int64_t max_tokens : {0, 1, 9, 9}) {
      std::vector<LogProbs> of_prompt, of_text;
      std::vector<std::int64_t> reused;
      std::optional<Finish> finish;
      Request request{golden.prompt, {.max_tokens = max_tokens}, {}, {}};
      request.each = [&](text::TokenId id) { return of_text.back().chosen.id == id; };
      request.done = [&](Finish f, const Ids&) { finish = f; };
      request.started = [&](std::int64_t tokens) { reused.push_back(tokens); };
      request.log_probs = [&](const LogProbs& p) { of_text.push_back(p); };
      request.prompt_log_probs = [&](const LogProbs& p) { of_prompt.push_back(p); };
      request.likeliest = 3;
      engine.add(std::move(request));
      while (engine.step()) {
      }
      EXPECT_EQ(finish, Finish::length);
      EXPECT_EQ(reused, std::vector<std::int64_t>{0});  // what is cached has no logits any more
      ASSERT_EQ(of_prompt.size(), golden.prompt.size() - 1);
      for (std::size_t i = 0; i < of_prompt.size(); ++i) {
        const text::TokenId id = golden.prompt[i + 1];
        EXPECT_EQ(of_prompt[i].chosen.id, id);
        EXPECT_NEAR(of_prompt[i].chosen.log_prob, expected_log_prob(golden, i, id), 1e-3);
        for (const TokenLogProb& likely : of_prompt[i].likeliest)
          EXPECT_NEAR(likely.log_prob, expected_log_prob(golden, i, likely.id), 1e-3);
      }
      ASSERT_EQ(of_text.size(), static_cast<std::size_t>(max_tokens));
      if (of_text.empty()) continue;
      EXPECT_EQ(of_text[0].likeliest.size(), 3);
      EXPECT_EQ(of_text[0].likeliest[0].id, golden.greedy[0]);
      EXPECT_NEAR(of_text[0].chosen.log_prob,
                  expected_log_prob(golden, golden.prompt.size() - 1, golden.greedy[0]), 1e-3);
    }
  }
}

TEST(Engine, TellsAPromptOnceThoughItIsReadAgain) {
  const Golden golden("llama");
  const double page = models::bytes_of_page(golden.model, 4);
  Engine engine(golden.model, {.page_tokens = 4, .cache_bytes = 20 * page});
  std::vector<std::size_t> told(3), started(3);
  for (std::size_t i = 0; i < 3; ++i) {
    Request request{random_prompt(golden.model, i, 12), {.max_tokens = 40}, {}, {}};
    request.prompt_log_probs = [&told, i](const LogProbs&) { ++told[i]; };
    request.started = [&started, i](std::int64_t) { ++started[i]; };
    const std::int64_t number = engine.add(std::move(request));
    EXPECT_TRUE(engine.has(number));
    EXPECT_FALSE(engine.has(number + 1));
  }
  while (engine.step()) {
  }
  EXPECT_GT(engine.counts().preemptions, 0);
  EXPECT_THAT(told, ::testing::Each(11));
  EXPECT_THAT(started, ::testing::Each(1));
  EXPECT_FALSE(engine.has(0));
  EXPECT_EQ(engine.held(), 0);
}

TEST(Engine, ForgetsTheTextsOfAPassThatFails) {
  Golden golden("llama");
  Engine engine(golden.model, {});
  bool told = false;
  engine.add({golden.prompt,
              {.max_tokens = 9},
              [&](text::TokenId) { return told = true; },
              [&](Finish, const Ids&) { told = true; }});
  const at::Tensor norm = golden.model.final_norm.value, sound = norm.clone();
  norm.fill_(NAN);
  EXPECT_THROW(engine.step(), Error);
  norm.copy_(sound);
  EXPECT_FALSE(engine.step());
  EXPECT_FALSE(told);
  // Who is told of an end may add another.
  Ids text;
  engine.add({golden.prompt, {.max_tokens = 1}, {}, [&](Finish, const Ids&) {
                engine.add({golden.prompt, {.max_tokens = 64}, {}, [&](Finish, const Ids& ids) {
                              text = ids;
                            }});
              }});
  while (engine.step()) {
  }
  EXPECT_EQ(text, golden.greedy);
}

TEST(Pages, AreFoundByWhatTheyHoldUntilTheirRoomIsWanted) {
  Pages pages(3, 2);
  const Ids ab{1, 2}, cd{3, 4};
  const auto first = pages.take(), second = pages.take();
  const auto content = pages.filled(*first, 0, ab);
  const auto behind = pages.filled(*second, content, cd);
  EXPECT_NE(content, behind);
  EXPECT_FALSE(pages.find(0, cd));  // the same tokens behind others
  EXPECT_EQ(pages.find(content, cd)->page, *second);
  pages.release(*second);
  pages.release(*second);
  pages.release(*first);
  EXPECT_EQ(pages.free(), 3);
  EXPECT_EQ(pages.find(0, ab)->page, *first);
  // What nobody knows goes first, then what was released first.
  const auto third = pages.take();
  EXPECT_NE(*third, *second);
  EXPECT_TRUE(pages.find(content, cd));
  pages.release(*second);
  EXPECT_EQ(*pages.take(), *second);
  EXPECT_FALSE(pages.find(content, cd));
  EXPECT_FALSE(pages.take());
  EXPECT_THROW(Pages(0, 2), Error);
}

}  // namespace
}  // namespace qad::generate
