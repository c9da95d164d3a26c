// One example of any kind as a document: text encoded, chats rendered, and the tokens that count
// found. Errors here don't know the file; read_documents adds it.
#pragma once

#include <optional>
#include <string_view>

#include "core/json.h"
#include "data/dataset.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace qad::data {

class Renderer {
 public:
  Renderer(const text::Tokenizer& tokenizer, const RenderOptions& options);

  Document plain(std::string_view text) const;
  // prompt + response as one plain text; with Mask::assistant only the response (and EOS) counts.
  Document completion(const std::string& prompt, const std::string& response) const;
  // `messages`: array of {role, content}; `tools` may be null.
  Document chat(const Json& messages, const Json& tools) const;
  bool has_template() const { return chat_template_.has_value(); }

 private:
  using Ranges = std::vector<std::pair<std::size_t, std::size_t>>;
  text::Rendered render(const Json& messages, const Json& tools, bool generation_prompt) const;
  Ranges assistant_ranges(const Json& messages, const Json& tools, const std::string& full) const;
  // Marks the tokens of `d` (the encoding of `text`) that touch a byte range.
  void count_ranges(std::string_view text, const Ranges& ranges, bool special_tokens,
                    Document& d) const;

  const text::Tokenizer& tokenizer_;
  RenderOptions options_;
  std::optional<text::ChatTemplate> chat_template_;
};

}  // namespace qad::data
