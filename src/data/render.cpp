// Rendering of examples and the assistant mask.
//
// A byte boundary b of the text becomes a token boundary without asking the tokenizer for offsets
// (which normalisers and byte fallback make unreliable): the encoding of the first b bytes is
// compared with the encoding of the whole, and the tokens that agree lie before the boundary. When
// a token straddles it the encodings part earlier; that token touches the range and counts, as in
// Transformers' assistant mask.
#include "data/render.h"

#include <algorithm>

#include "core/error.h"

namespace qad::data {

namespace {

constexpr std::string_view kOperation = "render";

struct Boundary {
  std::size_t token;  // the first token not wholly before the boundary
  bool inside;        // the boundary falls inside that token
};

Boundary token_boundary(const std::vector<text::TokenId>& whole,
                        const std::vector<text::TokenId>& prefix) {
  const auto [at, end] = std::mismatch(whole.begin(), whole.end(), prefix.begin(), prefix.end());
  return {static_cast<std::size_t>(at - whole.begin()), end != prefix.end()};
}

}  // namespace

Renderer::Renderer(const text::Tokenizer& tokenizer, const RenderOptions& options)
    : tokenizer_(tokenizer), options_(options) {
  if (!tokenizer.chat_template.empty()) chat_template_.emplace(tokenizer.chat_template);
}

Document Renderer::plain(std::string_view text) const {
  check(options_.mask == Mask::all, kOperation,
        "the mask 'assistant' needs messages, or a prompt and a response; this is plain text");
  Document d{tokenizer_.encode(text), {}};
  const bool ended = !d.ids.empty() && d.ids.back() == tokenizer_.eos;
  if (options_.eos && tokenizer_.eos && !ended) d.ids.push_back(*tokenizer_.eos);
  d.counts.assign(d.ids.size(), 1);
  return d;
}

Document Renderer::completion(const std::string& prompt, const std::string& response) const {
  const std::string text = prompt + response;
  Document d{tokenizer_.encode(text), {}};
  d.counts.assign(d.ids.size(), options_.mask == Mask::all);
  if (options_.mask == Mask::assistant) count_ranges(text, {{prompt.size(), text.size()}}, true, d);
  const bool ended = !d.ids.empty() && d.ids.back() == tokenizer_.eos;
  if (options_.eos && tokenizer_.eos && !ended) {
    d.ids.push_back(*tokenizer_.eos);
    d.counts.push_back(1);
  }
  return d;
}

Document Renderer::chat(const Json& messages, const Json& tools) const {
  check(has_template(), kOperation, "messages need a chat template, and this model has none");
  check(messages.is_array() && !messages.empty(), kOperation,
        "expected 'messages' to be a list of at least one message");
  for (const Json& m : messages)
    check(m.is_object() && m.contains("role") && m["role"].is_string(), kOperation,
          "expected each message to be an object with a 'role', found {}", m.dump());
  const text::Rendered full = render(messages, tools, false);
  Document d{tokenizer_.encode(full.text, false), {}};
  d.counts.assign(d.ids.size(), options_.mask == Mask::all);
  if (options_.mask == Mask::assistant)
    count_ranges(
        full.text,
        full.generated.empty() ? assistant_ranges(messages, tools, full.text) : full.generated,
        false, d);
  return d;
}

text::Rendered Renderer::render(const Json& messages, const Json& tools,
                                bool generation_prompt) const {
  return chat_template_->render(
      text::chat_variables(tokenizer_, messages, tools, generation_prompt));
}

// A template without {% generation %}: what message i says lies between the prompt that asks for it
// (the messages before, with the generation prompt) and the rendering through it.
Renderer::Ranges Renderer::assistant_ranges(const Json& messages, const Json& tools,
                                            const std::string& full) const {
  Ranges ranges;
  Json before = Json::array();
  for (const Json& message : messages) {
    if (message["role"] == "assistant") {
      const std::string prompt = render(before, tools, true).text;
      before.push_back(message);
      const std::string through =
          before.size() == messages.size() ? full : render(before, tools, false).text;
      check(full.starts_with(through) && through.starts_with(prompt), kOperation,
            "the chat template renders message {} otherwise once more messages follow, so what the "
            "assistant says cannot be found in it; use the mask 'all', or a template with "
            "{{% generation %}} blocks",
            before.size());
      ranges.emplace_back(prompt.size(), through.size());
    } else {
      before.push_back(message);
    }
  }
  return ranges;
}

void Renderer::count_ranges(std::string_view text, const Ranges& ranges, bool special_tokens,
                            Document& d) const {
  const auto boundary = [&](std::size_t byte) {
    if (byte == text.size()) return Boundary{d.ids.size(), false};
    return token_boundary(d.ids, tokenizer_.encode(text.substr(0, byte), special_tokens));
  };
  for (const auto& [begin, end] : ranges) {
    if (begin == end) continue;
    const Boundary first = boundary(begin), last = boundary(end);
    const std::size_t stop = std::min(d.ids.size(), last.token + (last.inside ? 1 : 0));
    for (std::size_t i = first.token; i < stop; ++i) d.counts[i] = 1;
  }
}

}  // namespace qad::data
