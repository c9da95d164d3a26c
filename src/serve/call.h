// A request to /v1/chat/completions or /v1/completions as its body says it: parsed and checked
// without a model. Source of names, defaults and limits: OpenAI's API reference; top_k, min_p,
// repetition_penalty and stop_token_ids are called as vLLM calls them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/json.h"
#include "generate/generate.h"

namespace qad::serve {

enum class Endpoint { chat, completions };

using Prompt = std::variant<std::string, std::vector<text::TokenId>>;

struct Call {
  Endpoint endpoint = Endpoint::chat;
  std::string model;
  Json messages = Json::array();  // chat: {"role", "content": a text}
  std::vector<Prompt> prompts;    // completions
  // With the API's defaults; max_tokens and seed are below.
  generate::SamplingOptions sampling{.max_tokens = 0, .temperature = 1};
  std::optional<std::int64_t> max_tokens;
  std::optional<std::uint64_t> seed;
  std::int64_t samples = 1;              // n, of each prompt
  std::optional<std::int64_t> logprobs;  // wanted, with so many likeliest tokens beside each
  bool echo = false;                     // the prompt comes before the text
  bool stream = false, include_usage = false;
};

// Throws ApiError 400 for a body that is no JSON, a parameter that is missing, malformed, beyond
// its limits or unknown, and for one that this server does not support unless it asks for nothing.
Call parse_call(Endpoint endpoint, std::string_view body);

}  // namespace qad::serve
