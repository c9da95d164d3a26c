// What English teaches Punkt: abbreviations, words that start sentences, words that are written
// small in the middle of one.
#pragma once

#include <string>
#include <string_view>

namespace qad::score {

struct Token {
  std::string_view text;
  std::string type;            // in lower case; "##number##" for a number
  bool ends_sentence = false;  // at it, by what is known so far
  bool is_abbreviation = false;
  bool is_ellipsis = false;
  bool is_initial = false;  // a letter and a period
};

// A token by its look alone (first pass).
Token mark(std::string_view token);

// What the token behind it says about the end of a sentence at `token` (second pass).
void correct(Token& token, const Token& next);

}  // namespace qad::score
