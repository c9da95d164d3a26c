// ChatTemplate: parse once, run for every conversation.
#include "text/chat_template.h"

#include "text/jinja_eval.h"
#include "text/jinja_parser.h"

namespace qad::text {

Json chat_variables(const Tokenizer& tokenizer, const Json& messages, const Json& tools,
                    bool generation_prompt) {
  Json variables =
      tokenizer.special_tokens.is_object() ? tokenizer.special_tokens : Json(Json::object());
  variables["messages"] = messages;
  variables["tools"] = tools;
  variables["add_generation_prompt"] = generation_prompt;
  return variables;
}

struct ChatTemplate::Impl {
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::string_view source)
    : impl_(std::make_shared<const Impl>(Impl{jinja::parse(source)})) {}

Rendered ChatTemplate::render(const Json& variables) const {
  return jinja::Interpreter(variables).run(impl_->body);
}

std::vector<TokenId> chat_prompt(const Tokenizer& tokenizer, const ChatTemplate& chat,
                                 const Json& messages) {
  return tokenizer.encode(chat.render(chat_variables(tokenizer, messages, Json(), true)).text,
                          false);
}

}  // namespace qad::text
