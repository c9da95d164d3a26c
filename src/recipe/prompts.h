// Files of prompts, and what a model reads of one.
#pragma once

#include <optional>
#include <vector>

#include "core/file.h"
#include "core/json.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace qad::recipe {

// {"prompt": a text} or {"messages": [...]}, one for each line of a .txt (a prompt) or .jsonl
// (`messages`, else `prompt`). With `chat` a prompt is a user's message. Throws Error "[operation]
// FILE:LINE: ...".
std::vector<Json> read_prompts(std::string_view operation, const fs::path& file, bool chat);

// The model's chat template, if it has one.
std::optional<text::ChatTemplate> chat_template_of(const text::Tokenizer& tokenizer);

// Messages as a prompt: for a model without a chat template, what they say, one after another.
Json as_prompt(const Json& messages, bool chat);

// A prompt as it is, with what the tokenizer adds (BOS); messages by the template. Throws Error
// "[operation] WHERE ..." for messages without a template and for prompts without tokens.
std::vector<text::TokenId> prompt_tokens(std::string_view operation, const std::string& where,
                                         const Json& prompt, const text::Tokenizer& tokenizer,
                                         const std::optional<text::ChatTemplate>& chat);

}  // namespace qad::recipe
