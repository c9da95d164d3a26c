// Chat templates: the Jinja that published models use, rendered as Transformers does (trim_blocks,
// lstrip_blocks, loop controls, raise_exception, strftime_now, tojson without HTML escapes).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "text/tokenizer.h"

namespace qad::text {

struct Rendered {
  std::string text;
  // Byte ranges of `text` that came from {% generation %} blocks: the assistant's words. Empty if
  // the template has no such block.
  std::vector<std::pair<std::size_t, std::size_t>> generated;
};

// What Transformers gives a template: the tokenizer's special tokens, messages (a list of {role,
// content}), tools (null: none) and whether the assistant's opening shall follow.
Json chat_variables(const Tokenizer& tokenizer, const Json& messages, const Json& tools,
                    bool generation_prompt);

class ChatTemplate {
 public:
  // Throws Error "[chat_template] line N: ..." for syntax that is malformed or not supported.
  explicit ChatTemplate(std::string_view jinja);
  // `variables`: messages, tools, add_generation_prompt, bos_token, ... Throws Error for the
  // template's own raise_exception and for operations that fail.
  Rendered render(const Json& variables) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

// The tokens of a conversation that asks for an answer: rendered with the generation prompt, and
// encoded without further special tokens.
std::vector<TokenId> chat_prompt(const Tokenizer& tokenizer, const ChatTemplate& chat,
                                 const Json& messages);

}  // namespace qad::text
