// The kinds of sources.
#include "recipe/synthesis_candidates.h"

#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "evaluate/score.h"
#include "recipe/benchmarks.h"
#include "recipe/prompts.h"

namespace qad::recipe {
namespace {

constexpr std::string_view kOperation = "synthesize";

// The record of a prompt and what came of it.
Json record_of(const std::string& prompt, const std::vector<text::TokenId>& prompt_ids,
               const generate::WrittenText& text) {
  std::vector<text::TokenId> ids = prompt_ids;
  ids.insert(ids.end(), text.ids.begin(), text.ids.end());
  if (text.ended_by) ids.push_back(*text.ended_by);
  return {{"prompt", prompt},
          {"completion", text.text},
          {"input_ids", ids},
          {"prompt_tokens", prompt_ids.size()},
          {"finish_reason", generate::finish_reason(text.finish)}};
}

// Passes over n things in an order drawn from a seed: (thing, pass) of a number.
class Order {
 public:
  Order(std::size_t n, std::int64_t passes, std::uint64_t seed) : order_(n), passes_(passes) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    Random random{seed};
    for (std::size_t i = n; i > 1; --i) std::swap(order_[i - 1], order_[random.below(i)]);
  }
  std::optional<std::size_t> at(std::int64_t index) const {
    const auto n = static_cast<std::int64_t>(order_.size());
    if (index >= n * passes_) return std::nullopt;
    return order_[static_cast<std::size_t>(index % n)];
  }

 private:
  std::vector<std::size_t> order_;
  std::int64_t passes_;
};

// What is said of a prompt in its record.
std::string text_of(const Json& prompt) {
  if (prompt.contains("prompt")) return prompt["prompt"];
  std::string text;
  for (const Json& m : prompt["messages"])
    text += (text.empty() ? "" : "\n") + m.value("role", "") + ": " + m.value("content", "");
  return text;
}

// A conversation up to the assistant's last answer, which the teacher is to give anew.
void drop_last_answer(Json& prompt) {
  if (!prompt.contains("messages")) return;
  Json& messages = prompt["messages"];
  check(messages.is_array(), kOperation, "messages: expected a list");
  for (std::size_t i = messages.size(); i-- > 0;) {
    if (messages[i].value("role", "") != "assistant") continue;
    messages.erase(messages.begin() + static_cast<std::ptrdiff_t>(i), messages.end());
    return;
  }
}

class FromPrompts : public Candidates {
 public:
  FromPrompts(const SynthesisSource& source, std::uint64_t seed, const LoadedModel& teacher)
      : source_(source),
        teacher_(teacher),
        chat_(chat_template_of(teacher.tokenizer)),
        prompts_(read_prompts(kOperation, source.file, chat_.has_value())),
        order_(prompts_.size(), source.passes, seed) {
    for (Json& prompt : prompts_) drop_last_answer(prompt);
  }
  std::optional<Candidate> next(std::int64_t index) override {
    const auto at = order_.at(index);
    if (!at) return std::nullopt;
    Candidate c;
    c.record = {{"prompt", text_of(prompts_[*at])}};
    c.prompt_ids = prompt_tokens(kOperation, fmt::format("{}: prompt {}", source_.file, *at),
                                 prompts_[*at], teacher_.tokenizer, chat_);
    return c;
  }
  void note(Candidate& c, generate::WrittenText text) override {
    c.record = record_of(c.record["prompt"], c.prompt_ids, text);
    c.complete = true;
  }

 private:
  const SynthesisSource& source_;
  const LoadedModel& teacher_;
  std::optional<text::ChatTemplate> chat_;
  std::vector<Json> prompts_;
  Order order_;
};

class FromTask : public Candidates {
 public:
  FromTask(const SynthesisSource& source, std::uint64_t seed, const LoadedModel& teacher)
      : source_(source),
        teacher_(teacher),
        task_(find_task(source.task)),
        problems_(evaluate::read_problems(task_, seed)),
        order_(problems_.size(), source.passes, seed) {
    check(task_.steps.empty(), kOperation, "{}: a task of several steps can't be a source",
          task_.name);
    if (task_.chat != "no") chat_ = chat_template_of(teacher.tokenizer);
    if (source.keep == "correct") evaluate::check_can_score(task_, problems_);
  }
  std::optional<Candidate> next(std::int64_t index) override {
    const auto at = order_.at(index);
    if (!at) return std::nullopt;
    Candidate c;
    c.problem = static_cast<std::int64_t>(*at);
    const Json prompt =
        as_prompt(evaluate::messages_of(task_, problems_[*at], 0, {}), chat_.has_value());
    c.record = {{"prompt", text_of(prompt)}};
    c.prompt_ids =
        prompt_tokens(kOperation, fmt::format("{}: problem {}", task_.name, problems_[*at].id),
                      prompt, teacher_.tokenizer, chat_);
    return c;
  }
  void note(Candidate& c, generate::WrittenText text) override {
    c.record = record_of(c.record["prompt"], c.prompt_ids, text);
    const evaluate::Problem& problem = problems_[static_cast<std::size_t>(c.problem)];
    if (!problem.reference.empty()) c.record["reference"] = problem.reference;
    c.complete = true;
    if (source_.keep == "all") return;
    evaluate::Response response;
    response.text = text.text;
    std::vector<evaluate::Response> one = {std::move(response)};
    evaluate::score(task_, {problem}, one, 1);
    const auto& points = one[0].metrics.at(0).points;
    c.rejected = points.passed < points.total;
    c.record["correct"] = !c.rejected;
  }

 private:
  const SynthesisSource& source_;
  const LoadedModel& teacher_;
  std::optional<text::ChatTemplate> chat_;
  evaluate::Task task_;
  std::vector<evaluate::Problem> problems_;
  Order order_;
};

// Where every text of the model's begins: BOS or, where it has none, the end of a text before.
std::vector<text::TokenId> beginning(const text::Tokenizer& tokenizer) {
  const auto first = tokenizer.bos ? tokenizer.bos : tokenizer.eos;
  check(first.has_value(), kOperation, "bos: the tokenizer names neither BOS nor EOS");
  return {*first};
}

class FromBos : public Candidates {
 public:
  explicit FromBos(const LoadedModel& teacher) : bos_(beginning(teacher.tokenizer)) {}
  std::optional<Candidate> next(std::int64_t) override {
    Candidate c;
    c.prompt_ids = bos_;
    return c;
  }
  void note(Candidate& c, generate::WrittenText text) override {
    c.record = record_of("", c.prompt_ids, text);
    c.complete = true;
    c.rejected = text.ids.empty();
  }

 private:
  std::vector<text::TokenId> bos_;
};

// The model is given a user's turn that has just begun, writes what a user might say, and answers
// (as in Magpie, arXiv 2406.08464).
class FromSelf : public Candidates {
 public:
  explicit FromSelf(const LoadedModel& teacher)
      : teacher_(teacher), chat_(chat_template_of(teacher.tokenizer)) {
    check(chat_.has_value(), kOperation,
          "self: the model has no chat template, so it can't ask itself; use bos");
    const std::string mark = "\x1Aqad\x1A";  // where the user's words would stand
    const Json messages = {{{"role", "user"}, {"content", mark}}};
    const std::string text =
        chat_->render(text::chat_variables(teacher.tokenizer, messages, Json(), false)).text;
    const std::size_t at = text.find(mark);
    check(at != std::string::npos, kOperation,
          "self: the chat template does not show what the user says");
    opening_ = teacher.tokenizer.encode(text.substr(0, at), false);
    check(!opening_.empty(), kOperation, "self: the chat template opens with the user's words");
  }
  std::optional<Candidate> next(std::int64_t) override {
    Candidate c;
    c.prompt_ids = opening_;
    return c;
  }
  void note(Candidate& c, generate::WrittenText text) override {
    if (c.stage++ == 0) {
      // A question that does not end is none.
      const bool asked = text.finish == generate::Finish::stop &&
                         text.text.find_first_not_of(" \t\r\n") != std::string::npos;
      c.rejected = !asked;
      if (!asked) return;
      const Json prompt = {{"messages", {{{"role", "user"}, {"content", text.text}}}}};
      c.record = {{"prompt", text.text}};
      c.prompt_ids = prompt_tokens(kOperation, "self", prompt, teacher_.tokenizer, chat_);
      return;
    }
    c.record = record_of(c.record["prompt"], c.prompt_ids, text);
    c.complete = true;
  }

 private:
  const LoadedModel& teacher_;
  std::optional<text::ChatTemplate> chat_;
  std::vector<text::TokenId> opening_;
};

// Behind BOS, tokens that mean nothing: each of the vocabulary as likely as any other.
class FromRandom : public Candidates {
 public:
  FromRandom(std::uint64_t seed, std::int64_t length, const LoadedModel& teacher)
      : seed_(seed), length_(length), vocabulary_(teacher.tokenizer.vocab_size()) {
    if (teacher.tokenizer.bos) bos_ = {*teacher.tokenizer.bos};
  }
  std::optional<Candidate> next(std::int64_t index) override {
    Random random{random_bits(seed_, static_cast<std::uint64_t>(index))};
    std::vector<text::TokenId> ids = bos_;
    for (std::int64_t i = 0; i < length_; ++i)
      ids.push_back(
          static_cast<text::TokenId>(random.below(static_cast<std::uint64_t>(vocabulary_))));
    Candidate c;
    c.complete = true;
    c.record = {{"prompt", ""},
                {"completion", ""},
                {"input_ids", ids},
                {"prompt_tokens", bos_.size()},
                {"finish_reason", "length"}};
    return c;
  }
  void note(Candidate&, generate::WrittenText) override {}

 private:
  std::uint64_t seed_;
  std::int64_t length_, vocabulary_;
  std::vector<text::TokenId> bos_;
};

}  // namespace

std::unique_ptr<Candidates> make_candidates(const Synthesis& synthesis, std::size_t number,
                                            const LoadedModel& teacher) {
  const SynthesisSource& source = synthesis.sources[number];
  const std::uint64_t seed = random_bits(static_cast<std::uint64_t>(synthesis.seed), number);
  if (source.kind == "prompts") return std::make_unique<FromPrompts>(source, seed, teacher);
  if (source.kind == "task") return std::make_unique<FromTask>(source, seed, teacher);
  if (source.kind == "self") return std::make_unique<FromSelf>(teacher);
  if (source.kind == "bos") return std::make_unique<FromBos>(teacher);
  return std::make_unique<FromRandom>(seed, synthesis.sampling.max_tokens, teacher);
}

}  // namespace qad::recipe
