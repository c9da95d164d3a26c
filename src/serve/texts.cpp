// From a call to texts: tokens, lengths, seeds.
#include "serve/texts.h"

#include <algorithm>
#include <random>

#include "core/error.h"
#include "serve/api_error.h"

namespace qad::serve {
namespace {

constexpr std::int64_t kCompletionTokens = 16;  // the API's default

using Ids = std::vector<text::TokenId>;

[[noreturn]] void too_long(std::string_view param, const std::string& message) {
  ApiError error(400, fmt::format("{}: {}", param, message));
  error.param = param;
  error.code = "context_length_exceeded";
  throw error;
}

Ids chat_ids(const Call& call, const recipe::LoadedModel& loaded,
             const std::optional<text::ChatTemplate>& chat) {
  require(chat.has_value(), "messages",
          "this model has no chat template; /v1/completions continues texts without one");
  try {
    return text::chat_prompt(loaded.tokenizer, *chat, call.messages);
  } catch (const Error& e) {  // the template's own refusal, of roles that do not alternate and such
    refuse("messages", "{}", e.what());
  }
}

Ids ids_of(const Prompt& prompt, const recipe::LoadedModel& loaded) {
  if (const auto* text = std::get_if<std::string>(&prompt)) return loaded.tokenizer.encode(*text);
  const Ids& ids = std::get<Ids>(prompt);
  for (const text::TokenId id : ids) {
    require(id < loaded.model.config.vocabulary, "prompt", "expected token ids below {}, found {}",
            loaded.model.config.vocabulary, id);
    try {
      loaded.tokenizer.token_of(id);  // a vocabulary may have gaps, and rows that only pad it
    } catch (const Error& e) {
      refuse("prompt", "{}", e.what());
    }
  }
  return ids;
}

std::int64_t new_tokens(const Call& call, std::int64_t prompt, const TextLimits& limits) {
  const char* param = call.endpoint == Endpoint::chat ? "messages" : "prompt";
  if (prompt > limits.prompt)
    too_long(param,
             fmt::format("expected no more than {} tokens, found {}", limits.prompt, prompt));
  const std::int64_t left = limits.context - prompt;
  if (!call.max_tokens) {
    const bool chat = call.endpoint == Endpoint::chat;
    if (left < 1)
      too_long(param,
               fmt::format("{} tokens leave no room for a text in {}", prompt, limits.context));
    return std::min({left, limits.new_tokens, chat ? left : kCompletionTokens});
  }
  require(*call.max_tokens <= limits.new_tokens, "max_tokens", "expected no more than {}, found {}",
          limits.new_tokens, *call.max_tokens);
  if (*call.max_tokens > left)
    too_long(param, fmt::format("a prompt of {} tokens and {} new ones: expected no more than {}",
                                prompt, *call.max_tokens, limits.context));
  return *call.max_tokens;
}

std::uint64_t random_seed() {
  std::random_device device;
  return (static_cast<std::uint64_t>(device()) << 32) | device();
}

}  // namespace

std::vector<Text> texts_of(const Call& call, const recipe::LoadedModel& loaded,
                           const std::optional<text::ChatTemplate>& chat,
                           const TextLimits& limits) {
  const bool is_chat = call.endpoint == Endpoint::chat;
  const std::size_t prompts = is_chat ? 1 : call.prompts.size();
  require(static_cast<std::int64_t>(prompts) <= limits.texts / call.samples,
          call.samples > 1 ? "n" : "prompt",
          "{} prompts, {} texts of each: expected no more than {}", prompts, call.samples,
          limits.texts);
  try {
    generate::validate(call.sampling, loaded.model.config.vocabulary);
  } catch (const Error& e) {
    throw ApiError(400, e.what());
  }
  require(call.logprobs.value_or(0) <= loaded.model.config.vocabulary, "logprobs",
          "expected no more than the vocabulary's {}", loaded.model.config.vocabulary);
  const std::uint64_t seed = call.seed ? *call.seed : random_seed();
  std::vector<Text> texts;
  for (std::size_t p = 0; p < prompts; ++p) {
    Text text;
    text.prompt = is_chat ? chat_ids(call, loaded, chat) : ids_of(call.prompts[p], loaded);
    require(!text.prompt.empty(), is_chat ? "messages" : "prompt", "expected at least one token");
    text.sampling = call.sampling;
    text.sampling.max_tokens =
        new_tokens(call, static_cast<std::int64_t>(text.prompt.size()), limits);
    text.logprobs = call.logprobs;
    text.prompt_logprobs = call.echo && call.logprobs;
    if (call.echo) {
      const auto* given = std::get_if<std::string>(&call.prompts[p]);
      text.echo = given != nullptr ? *given : loaded.tokenizer.decode(text.prompt);
    }
    for (std::int64_t s = 0; s < call.samples; ++s) {
      text.sampling.seed = generate::sample_seed(seed, static_cast<std::int64_t>(p), s);
      texts.push_back(text);
    }
  }
  return texts;
}

}  // namespace qad::serve
