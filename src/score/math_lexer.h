// Splits an answer written in LaTeX, in plain text or in a mixture of both, into tokens: numbers
// with their separators gone, letters, commands, words, symbols. What only sets type (spaces,
// sizes, fonts, dollar signs) is gone.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qad::score::math {

struct Token {
  // kNumber: "12.5", "0.1(6)" for a repeating decimal. kBased: digits "1A" before _. kLetter: one
  // letter, or a name of Greek ("alpha") or a word that names a function or constant ("sin", "pi").
  // kCommand: "frac", "begin{pmatrix}". kText: words. kSymbol: one character, or "\\" (a row's
  // end), "\{", "\}", "\|", "\$" and relations by their LaTeX name.
  enum Kind { kNumber, kBased, kLetter, kCommand, kText, kSymbol, kEnd } kind;
  std::string text;
  bool space = false;  // white space before it
};

struct LexOptions {
  bool thousands = true;  // "81,256" is one number outside brackets, not two
};

// Outer dollar signs, \boxed and full stops off, Unicode's signs replaced by LaTeX's. Of at most
// 8,192 bytes; "" for more.
std::string clean(std::string_view answer);

// Ends with kEnd. `ambiguous` is set where LexOptions made a difference.
std::vector<Token> lex(std::string_view cleaned, const LexOptions& options, bool& ambiguous);

// Words as they are compared: lower case, no LaTeX, punctuation, articles or doubled spaces; number
// words are digits.
std::string plain_words(std::string_view text);

}  // namespace qad::score::math
