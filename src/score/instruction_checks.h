// One maker for each kind of instruction: it reads and checks the arguments once, and gives the
// test that the variants of a response are put to.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace qad::score {

// The arguments of one instruction. What is missing or of another type is an Error naming both.
struct Arguments {
  std::string_view id;
  const Json& kwargs;

  std::string text(const char* name) const;
  std::vector<std::string> texts(const char* name) const;
  long long number(const char* name) const;
  // Whether a count is as `relation_name` ("less than", "at least") asks of `number_name`.
  std::function<bool(std::size_t)> relation(const char* relation_name,
                                            const char* number_name) const;
};

using Check = std::function<bool(std::string_view)>;  // valid UTF-8, not blank
using CheckMaker = Check (*)(const Arguments&);

// instruction_words.cpp
Check keyword_existence(const Arguments&);
Check keyword_frequency(const Arguments&);
Check forbidden_words(const Arguments&);
Check letter_frequency(const Arguments&);
Check number_words(const Arguments&);
Check number_sentences(const Arguments&);
Check number_paragraphs(const Arguments&);
Check nth_paragraph_first_word(const Arguments&);
Check response_language(const Arguments&);
Check english_capital(const Arguments&);
Check english_lowercase(const Arguments&);
Check capital_word_frequency(const Arguments&);
Check no_comma(const Arguments&);

// instruction_format.cpp
Check number_placeholders(const Arguments&);
Check postscript(const Arguments&);
Check number_bullet_lists(const Arguments&);
Check constrained_response(const Arguments&);
Check highlighted_sections(const Arguments&);
Check multiple_sections(const Arguments&);
Check json_format(const Arguments&);
Check title(const Arguments&);
Check two_responses(const Arguments&);
Check repeat_prompt(const Arguments&);
Check end_checker(const Arguments&);
Check quotation(const Arguments&);

// Whether Python's json.loads takes `text`: JSON, and also NaN, Infinity, -Infinity, keys that come
// twice and halves of surrogate pairs as \u escapes. Any depth of nesting (instruction_json.cpp).
bool is_json(std::string_view text);

}  // namespace qad::score
