// Splits a template into text and tokens as jinja2 does with trim_blocks and lstrip_blocks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qad::text::jinja {

struct Token {
  // kBegin/kEnd of {{ }} and {% %}; `text` of kBegin and kEnd is "{{", "}}", "{%" or "%}".
  enum Kind { kText, kBegin, kEnd, kName, kString, kInteger, kFloat, kOperator, kEof } kind;
  std::string text;  // strings are unescaped, numbers have no underscores
  int line;
};

std::vector<Token> lex(std::string_view source);  // ends with kEof

}  // namespace qad::text::jinja
