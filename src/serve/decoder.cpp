// Between two passes the thread takes what was asked for and what is no longer wanted. All of a
// text's state is its own; the lock is held for the lists alone.
#include "serve/decoder.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "generate/stop.h"

namespace qad::serve {
namespace {

std::int64_t characters(std::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

ApiError shutting_down() {
  ApiError error(503, "the server is shutting down");
  error.code = "shutting_down";
  return error;
}

}  // namespace

// A token's log-probabilities are given out with the text that the token began; so tokens that a
// stop string cuts off are not.
struct Decoder::Writing {
  Writing(Asked a, const text::Tokenizer& tokenizer)
      : channel(std::move(a.channel)),
        choice(a.choice),
        asked(a.when),
        text(std::move(a.text)),
        stream(tokenizer, text.prompt),
        stop(std::exchange(text.sampling.stop, {})) {}

  std::shared_ptr<Channel> channel;
  std::size_t choice;
  std::chrono::steady_clock::time_point asked;
  Text text;
  generate::TextStream stream;
  generate::StopStrings stop;
  std::int64_t reused = 0;
  std::int64_t decoded = 0, given = 0;  // characters
  std::vector<LoggedToken> held;
  bool begun = false;

  Piece piece() {
    Piece p;
    p.choice = choice;
    p.reused = std::exchange(reused, 0);
    return p;
  }
  // Prompt and its log-probabilities, where they are wanted, before anything else.
  void begin(const text::Tokenizer& tokenizer) {
    if (std::exchange(begun, true) || !text.echo) return;
    Piece p = piece();
    p.text = *text.echo;
    if (text.prompt_logprobs) {
      generate::TextStream prompt(tokenizer, {});
      std::int64_t offset = 0;
      for (std::size_t i = 0; i < text.prompt.size(); ++i) {
        LoggedToken token{text.prompt[i], offset, {}};
        if (i > 0) token.log_probs = std::move(held[i - 1].log_probs);
        p.logged.push_back(std::move(token));
        offset += characters(prompt.next(text.prompt[i]));
      }
      held.erase(held.begin(), held.begin() + static_cast<std::ptrdiff_t>(text.prompt.size()) - 1);
    }
    decoded = given = characters(p.text);
    for (LoggedToken& token : held) token.offset = decoded;
    channel->put(std::move(p));
  }
  void release(Piece& p, bool all) {
    const auto end = all ? held.end()
                         : std::find_if(held.begin(), held.end(),
                                        [&](const LoggedToken& t) { return t.offset >= given; });
    p.logged.assign(std::make_move_iterator(held.begin()), std::make_move_iterator(end));
    held.erase(held.begin(), end);
  }
  bool next(text::TokenId id) {
    Piece p = piece();
    const std::string made = stream.next(id);
    decoded += characters(made);
    p.text = stop.next(made);
    p.tokens = 1;
    given += characters(p.text);
    release(p, false);
    return channel->put(std::move(p)) && !stop.found();
  }
  void end(generate::Finish finish) {
    Piece p = piece();
    p.text = stop.next(stream.rest()) + stop.rest();
    given += characters(p.text);
    release(p, !stop.found());
    p.finish = stop.found() ? generate::Finish::stop : finish;
    channel->put(std::move(p));
  }
};

Decoder::Decoder(const models::Model& model, const text::Tokenizer& tokenizer,
                 const Options& options, Metrics& metrics)
    : engine_(model, options.engine),
      tokenizer_(tokenizer),
      options_(options),
      metrics_(metrics),
      thread_([this] { run(); }) {}

Decoder::~Decoder() {
  abort();
  thread_.join();
}

std::shared_ptr<Channel> Decoder::submit(std::vector<Text> texts) {
  for (const Text& text : texts) {
    generate::SamplingOptions of_ids = text.sampling;
    of_ids.stop.clear();
    try {
      engine_.check_request(text.prompt, of_ids);  // reads what never changes
    } catch (const Error& e) {
      throw ApiError(400, e.what());
    }
  }
  auto channel = std::make_shared<Channel>(texts.size(), options_.most_pending);
  const auto now = std::chrono::steady_clock::now();
  const std::lock_guard lock(mutex_);
  if (aborted_) throw shutting_down();
  if (texts_ + static_cast<std::int64_t>(texts.size()) > most_texts()) {
    ApiError error(429, fmt::format("{} texts are being written or wait, of {}; try again later",
                                    texts_, most_texts()));
    error.type = "requests";
    error.code = "rate_limit_exceeded";
    error.retry_after_s = 1;
    throw error;
  }
  texts_ += static_cast<std::int64_t>(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i)
    asked_.push_back({channel, i, std::move(texts[i]), now});
  changed_.notify_one();
  return channel;
}

void Decoder::cancel(const std::shared_ptr<Channel>& channel) {
  channel->close();
  const std::lock_guard lock(mutex_);
  unwanted_.push_back(channel);
  changed_.notify_one();
}

void Decoder::abort() {
  const std::lock_guard lock(mutex_);
  aborted_ = true;
  changed_.notify_one();
}

void Decoder::ended(std::int64_t number) {
  writing_.erase(number);
  const std::lock_guard lock(mutex_);
  --texts_;
}

void Decoder::add(Asked asked) {
  auto w = std::make_shared<Writing>(std::move(asked), tokenizer_);
  const auto number = std::make_shared<std::int64_t>(-1);
  generate::Request request{w->text.prompt, w->text.sampling, {}, {}};
  request.started = [w](std::int64_t reused) { w->reused = reused; };
  request.each = [this, w, first = true](text::TokenId id) mutable {
    if (std::exchange(first, false)) {
      const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - w->asked;
      metrics_.first_token(waited.count());
    }
    w->begin(tokenizer_);
    return w->next(id);
  };
  request.done = [this, w, number](generate::Finish finish, const auto&) {
    if (finish != generate::Finish::cancelled) {  // else nobody listens
      w->begin(tokenizer_);
      w->end(finish);
    }
    ended(*number);
  };
  if (w->text.logprobs) {
    request.likeliest = *w->text.logprobs;
    request.log_probs = [w](const generate::LogProbs& p) {
      w->held.push_back({p.chosen.id, w->decoded, p});
    };
  }
  if (w->text.prompt_logprobs) request.prompt_log_probs = request.log_probs;
  *number = engine_.add(std::move(request));
  writing_[*number] = std::move(w);
}

void Decoder::step() {
  std::string what;
  try {
    engine_.step();
    return;
  } catch (const std::exception& e) {
    what = e.what();
  }
  // The engine has forgotten the texts of the pass; the others go on.
  std::vector<std::int64_t> forgotten;
  for (const auto& [number, w] : writing_) {
    if (engine_.has(number)) continue;
    w->channel->fail(ApiError(500, what));
    forgotten.push_back(number);
  }
  for (const std::int64_t number : forgotten) ended(number);
  if (!forgotten.empty()) return;
  // It failed before the pass began, and would again.
  for (const auto& [number, w] : writing_) {
    w->channel->fail(ApiError(500, what));
    engine_.cancel(number);
  }
}

void Decoder::publish() {
  metrics_.set({engine_.counts(), engine_.running(), engine_.waiting(), engine_.held()});
}

void Decoder::run() {
  for (;;) {
    std::vector<Asked> asked;
    std::vector<std::shared_ptr<Channel>> unwanted;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] {
        return aborted_ || !asked_.empty() || !unwanted_.empty() || !writing_.empty();
      });
      asked.swap(asked_);
      unwanted.swap(unwanted_);
      if (aborted_) {
        for (const Asked& a : asked) a.channel->fail(shutting_down());
        for (const auto& [number, w] : writing_) w->channel->fail(shutting_down());
        return;
      }
    }
    for (Asked& a : asked) add(std::move(a));
    for (const auto& channel : unwanted)
      for (const auto& [number, w] : writing_)
        if (w->channel == channel) engine_.cancel(number);
    step();
    publish();
  }
}

}  // namespace qad::serve
