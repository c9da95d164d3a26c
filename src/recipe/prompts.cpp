// Lines to prompts, prompts to tokens.
#include "recipe/prompts.h"

#include <sstream>

#include "core/error.h"

namespace qad::recipe {

std::vector<Json> read_prompts(std::string_view operation, const fs::path& file, bool chat) {
  const std::string extension = file.extension().string();
  check(extension == ".txt" || extension == ".jsonl", operation,
        "{}: expected a .txt or .jsonl file", file.string());
  std::vector<Json> prompts;
  std::istringstream text(read_text(file));
  std::int64_t number = 0;
  for (std::string line; std::getline(text, line);) {
    ++number;
    if (extension == ".txt") {
      prompts.push_back({{"prompt", line}});
    } else {
      const Json json = parse_json(line, fmt::format("{}:{}", file.string(), number));
      const bool messages = json.is_object() && json.contains("messages");
      check(messages || (json.is_object() && json.contains("prompt") && json["prompt"].is_string()),
            operation, "{}:{}: expected 'prompt', a text, or 'messages'", file.string(), number);
      prompts.push_back(messages ? Json{{"messages", json["messages"]}}
                                 : Json{{"prompt", json["prompt"]}});
    }
    if (chat && prompts.back().contains("prompt"))
      prompts.back() = {{"messages", {{{"role", "user"}, {"content", prompts.back()["prompt"]}}}}};
  }
  check(!prompts.empty(), operation, "{}: no prompts; the file is empty", file.string());
  return prompts;
}

std::optional<text::ChatTemplate> chat_template_of(const text::Tokenizer& tokenizer) {
  if (tokenizer.chat_template.empty()) return std::nullopt;
  return text::ChatTemplate(tokenizer.chat_template);
}

Json as_prompt(const Json& messages, bool chat) {
  if (chat) return {{"messages", messages}};
  std::string text;
  for (const Json& m : messages)
    text += (text.empty() ? "" : "\n\n") + m["content"].get<std::string>();
  return {{"prompt", text}};
}

std::vector<text::TokenId> prompt_tokens(std::string_view operation, const std::string& where,
                                         const Json& prompt, const text::Tokenizer& tokenizer,
                                         const std::optional<text::ChatTemplate>& chat) {
  std::vector<text::TokenId> ids;
  if (prompt.contains("prompt")) {
    ids = tokenizer.encode(prompt["prompt"].get<std::string>());
  } else {
    check(chat.has_value(), operation, "{}: messages need a chat template, and this model has none",
          where);
    ids = text::chat_prompt(tokenizer, *chat, prompt["messages"]);
  }
  check(!ids.empty(), operation, "{} has no tokens, and the tokenizer adds no BOS; expected a text",
        where);
  return ids;
}

}  // namespace qad::recipe
