// What a call asks the model for: prompts as tokens, and what each text may cost, held to the
// limits of model and server.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "recipe/steps.h"
#include "serve/call.h"
#include "text/chat_template.h"

namespace qad::serve {

struct TextLimits {
  std::int64_t context = 0;     // prompt and text together
  std::int64_t prompt = 0;      // tokens
  std::int64_t new_tokens = 0;  // what max_tokens may ask for
  std::int64_t texts = 0;       // of one call
};

// One choice of an answer.
struct Text {
  std::vector<text::TokenId> prompt;
  generate::SamplingOptions sampling;  // with its seed and stop strings
  std::optional<std::int64_t> logprobs;
  bool prompt_logprobs = false;
  std::optional<std::string> echo;  // what the text begins with
};

// In the order of the choices: all samples of the first prompt, then of the second. A text's seed
// is sample_seed(the call's seed, prompt's index, sample), as in `qad generate --prompts`; without
// one, random. Without max_tokens a chat may take what `context` has left, a completion 16.
// `chat`: absent if the model has no template. Throws ApiError 400.
std::vector<Text> texts_of(const Call& call, const recipe::LoadedModel& loaded,
                           const std::optional<text::ChatTemplate>& chat, const TextLimits& limits);

}  // namespace qad::serve
