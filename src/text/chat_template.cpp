// ChatTemplate: parse once, run for every conversation.
#include "text/chat_template.h"

#include "text/jinja_eval.h"
#include "text/jinja_parser.h"

namespace qad::text {

struct ChatTemplate::Impl {
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::string_view source)
    : impl_(std::make_shared<const Impl>(Impl{jinja::parse(source)})) {}

Rendered ChatTemplate::render(const Json& variables) const {
  return jinja::Interpreter(variables).run(impl_->body);
}

}  // namespace qad::text
