// NLTK puts spaces into the sentence, rule after rule; here each place is looked at once. What
// differs is which of two marks in a row a word keeps, never where letters part.
#include "score/sentence_words.h"

#include <utf8proc.h>

#include <algorithm>

#include "score/instruction_regex.h"
#include "text/jinja_text.h"
#include "text/tokenizer_utf8.h"

namespace qad::score {
namespace {

using Pieces = std::vector<std::string_view>;

std::size_t size_at(std::string_view s, std::size_t at) {
  return text::utf8_size(static_cast<unsigned char>(s[at]));
}

bool is_word(std::string_view s, std::size_t at) {  // \w
  if (at >= s.size()) return false;
  const char32_t c = text::decode_utf8(s, at);
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return c == '_' || text::is_numeric(c) ||
         (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO);
}

bool is_digit(std::string_view s, std::size_t at) {  // \d
  return at < s.size() &&
         utf8proc_category(static_cast<utf8proc_int32_t>(text::decode_utf8(s, at))) ==
             UTF8PROC_CATEGORY_ND;
}

// The length of what stands alone at `at` wherever it is, or 0.
std::size_t mark_at(std::string_view s, std::size_t at) {
  const auto run = [&] { return std::min(s.find_first_not_of(s[at], at), s.size()) - at; };
  const bool twice = at + 1 < s.size() && s[at + 1] == s[at];
  const char c = s[at];
  if (std::string_view("\";@#$%&?!*[](){}<>").find(c) != std::string_view::npos) return 1;
  if (c == '`' || (c == '.' && twice)) return run();
  if ((c == '-' || c == '\'') && twice) return 2;
  if (c == ':' || c == ',') return is_digit(s, at + 1) ? 0 : 1;
  for (const std::string_view mark : {"\u00ab", "\u00bb", "\u2012", "\u2013", "\u2014", "\u2015",
                                      "\u2018", "\u2019", "\u201c", "\u201d", "\u201e"})
    if (s.substr(at, mark.size()) == mark) return mark.size();
  return 0;
}

// Whether a quote at `at` opens a word instead of being part of one ('s, 'll).
bool opens(std::string_view s, std::size_t at) {
  if (s[at] != '\'' || !is_word(s, at + 1)) return false;
  std::size_t before = at;
  while (before > 0 && (static_cast<unsigned char>(s[--before]) & 0xC0) == 0x80) continue;
  if (at > 0 && is_word(s, before)) return false;
  for (const std::string_view clitic : {"re", "ve", "ll", "m", "t", "s", "d", "n"})
    if (text::jinja::lower(s.substr(at + 1, clitic.size())) == clitic &&
        !is_word(s, at + 1 + clitic.size()))
      return false;
  return true;
}

// "cannot" and its like are two words.
void add_contractions(std::string_view s, Pieces& out) {
  static const PythonRegex two("\\b(?:(?:cannot|gimme|gonna|gotta|lemme|d'ye|more'n)\\b|wanna\\Z)",
                               PythonRegex::ignore_case);
  const auto add = [&](std::string_view piece) {
    if (!piece.empty()) out.push_back(piece);
  };
  const char* rest = s.data();
  for (const std::string_view found : two.find_all(s)) {
    const std::size_t cut = found.size() == 4 ? 1 : found[4] == '\'' ? 4 : 3;  // d'ye, more'n
    add({rest, static_cast<std::size_t>(found.data() - rest)});
    add(found.substr(0, cut));
    add(found.substr(cut));
    rest = found.data() + found.size();
  }
  add({rest, static_cast<std::size_t>(s.data() + s.size() - rest)});
}

// A run of letters and what sticks to them: its clitics come off, one of each kind.
void add_word(std::string_view s, Pieces& out) {
  constexpr std::string_view kShort[] = {"'s", "'S", "'m", "'M", "'d", "'D", "'"};
  constexpr std::string_view kLong[] = {"'ll", "'LL", "'re", "'RE", "'ve", "'VE", "n't", "N'T"};
  const auto take = [&s](const auto& clitics) {
    for (const std::string_view clitic : clitics)
      if (s.ends_with(clitic) && s.size() > clitic.size() &&
          s[s.size() - clitic.size() - 1] != '\'') {
        const std::string_view taken = s.substr(s.size() - clitic.size());
        s.remove_suffix(clitic.size());
        return taken;
      }
    return std::string_view();
  };
  const std::string_view last = take(kShort), before = take(kLong);
  add_contractions(s, out);
  for (const std::string_view clitic : {before, last})
    if (!clitic.empty()) out.push_back(clitic);
}

// The place of the period that ends the sentence, closing quotes and brackets behind it, or npos.
std::size_t final_period(std::string_view s) {
  std::size_t end = text::jinja::strip(s, "", 2).size();
  for (bool closing = true; closing;) {
    closing = false;
    for (const std::string_view mark :
         {"]", ")", "}", ">", "\"", "'", " ", "\u00bb", "\u201d", "\u2019"})
      if (s.substr(0, end).ends_with(mark)) {
        end -= mark.size();
        closing = true;
      }
  }
  return end >= 2 && s[end - 1] == '.' && s[end - 2] != '.' ? end - 1 : s.npos;
}

}  // namespace

std::vector<std::string_view> treebank_words(std::string_view sentence) {
  Pieces out;
  const std::size_t period = final_period(sentence);
  std::size_t word = 0;  // where what is not cut off yet begins
  const auto end_word = [&](std::size_t at) {
    if (at > word) add_word(sentence.substr(word, at - word), out);
  };
  for (std::size_t at = 0; at < sentence.size();) {
    const std::size_t size = size_at(sentence, at);
    std::size_t mark = mark_at(sentence, at);
    if (mark == 0 && (at == period || opens(sentence, at))) mark = 1;
    const bool space = text::jinja::is_space(sentence.substr(at, size));
    if (mark > 0 || space) {
      end_word(at);
      if (mark > 0) out.push_back(sentence.substr(at, mark));
      word = at + (space ? size : mark);
    }
    at += mark > 0 ? mark : size;
  }
  end_word(sentence.size());
  return out;
}

}  // namespace qad::score
