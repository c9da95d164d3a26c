// A byte-level BPE tokenizer of printable ASCII, newline and one merge, with ChatML's special
// tokens: small enough to know every id by heart.
#pragma once

#include <string>

#include "text/tokenizer.h"

namespace qad::data {

inline const std::string kChatMl =
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
// The same with the assistant's words marked.
inline const std::string kChatMlGeneration =
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

// Ids: '!' is 0 ... '~' is 93, newline 94, space 95, "xy" 96, <s> 97, </s> 98, <|im_start|> 99,
// <|im_end|> 100. Plain texts begin with <s>.
inline text::Tokenizer tiny_tokenizer(const std::string& chat_template = {}) {
  Json vocabulary = Json::object();
  for (char c = '!'; c <= '~'; ++c) vocabulary[std::string(1, c)] = c - '!';
  int id = 94;
  for (const char* token : {"\u010A", "\u0120", "xy"}) vocabulary[token] = id++;
  Json added = Json::array();
  for (const char* token : {"<s>", "</s>", "<|im_start|>", "<|im_end|>"}) {
    Json t = {{"id", id++}, {"content", token}, {"special", true}};
    for (const char* off : {"single_word", "lstrip", "rstrip", "normalized"}) t[off] = false;
    added.push_back(t);
  }
  Json tokenizer = parse_json(R"({"version": "1.0", "truncation": null, "padding": null,
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                      "use_regex": true},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                "use_regex": true},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [97], "tokens": ["<s>"]}}},
    "model": {"type": "BPE", "dropout": null, "unk_token": null,
      "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
      "byte_fallback": false, "merges": ["x y"]}})",
                              "tiny tokenizer");
  tokenizer["added_tokens"] = added;
  tokenizer["model"]["vocab"] = vocabulary;
  Json config = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  if (!chat_template.empty()) config["chat_template"] = chat_template;
  return text::tokenizer_from_json(tokenizer, config);
}

}  // namespace qad::data
