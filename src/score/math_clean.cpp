// An answer's outer clothes: Unicode's signs become LaTeX's, dollar signs and \boxed go, and so do
// full stops at the end.
#include <algorithm>
#include <cctype>
#include <map>
#include <utility>

#include "score/math.h"
#include "score/math_lexer.h"
#include "score/math_words.h"

namespace qad::score::math {
namespace {

constexpr std::size_t kMaxBytes = 8'192;

constexpr std::pair<std::string_view, std::string_view> kUnicode[] = {
    {"−", "-"},
    {"–", "-"},
    {"—", "-"},
    {"×", "\\times "},
    {"÷", "\\div "},
    {"·", "\\cdot "},
    {"⋅", "\\cdot "},
    {"√", "\\sqrt "},
    {"π", "\\pi "},
    {"θ", "\\theta "},
    {"α", "\\alpha "},
    {"β", "\\beta "},
    {"γ", "\\gamma "},
    {"λ", "\\lambda "},
    {"φ", "\\phi "},
    {"ω", "\\omega "},
    {"≤", "\\le "},
    {"≥", "\\ge "},
    {"≠", "\\ne "},
    {"≈", "\\approx "},
    {"∞", "\\infty "},
    {"∪", "\\cup "},
    {"∩", "\\cap "},
    {"∈", "\\in "},
    {"±", "\\pm "},
    {"∓", "\\mp "},
    {"°", "^\\circ "},
    {"²", "^2"},
    {"³", "^3"},
    {"⁴", "^4"},
    {"½", "\\frac12 "},
    {"⅓", "\\frac13 "},
    {"⅔", "\\frac23 "},
    {"¼", "\\frac14 "},
    {"¾", "\\frac34 "},
    {"→", "\\to "},
    {"…", "\\ldots "},
    {"\u00a0", " "},
    {"\u2009", " "},
    {"\u202f", " "},
    {"′", "'"},
    {"’", "'"},
    {"“", ""},
    {"”", ""},
    {"€", "\\$"},
    {"£", "\\$"},
    {"ℝ", "\\mathbb{R}"},
    {"∅", "\\emptyset "},
    {"⟨", "\\langle "},
    {"⟩", "\\rangle "},
    {"∠", "\\angle "},
    {"△", "\\triangle "},
};

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  std::string result;
  std::size_t begin = 0;
  for (std::size_t at; (at = text.find(from, begin)) != std::string::npos;
       begin = at + from.size()) {
    result.append(text, begin, at - begin).append(to);
  }
  if (begin != 0) text = result.append(text, begin, std::string::npos);
}

bool escaped(std::string_view text, std::size_t at) {
  std::size_t slashes = 0;
  while (slashes < at && text[at - slashes - 1] == '\\') ++slashes;
  return slashes % 2 == 1;
}

// Pairs of dollar signs set mathematics; one alone is money.
void take_dollars(std::string& text) {
  std::string result;
  int count = 0;
  for (std::size_t i = 0; i < text.size(); ++i) count += text[i] == '$' && !escaped(text, i);
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '$' || escaped(text, i)) {
      result += text[i];
    } else if (count % 2 == 1) {
      result += "\\$";
    } else {
      result += ' ';
    }
  }
  text = std::move(result);
}

// The half of the day after a time is a word, not a product.
void take_half_of_day(std::string& text) {
  for (const std::string_view half : {"p.m.", "a.m.", "p.m", "a.m", "PM", "AM"}) {
    if (text.size() <= half.size() || !text.ends_with(half)) continue;
    const char before = text[text.size() - half.size() - 1];
    if (before != ' ' && !std::isdigit(static_cast<unsigned char>(before))) continue;
    text.resize(text.size() - half.size());
    text += half[0] == 'p' || half[0] == 'P' ? "\\text{pm}" : "\\text{am}";
    return;
  }
}

void trim(std::string& text) {
  const auto space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  while (!text.empty()) {
    const char last = text.back();
    const bool stop = last == '.' || last == ',' || last == ';' || last == ':';
    if (!space(last) && (!stop || (escaped(text, text.size() - 1)))) break;
    text.pop_back();
  }
  std::size_t begin = 0;
  while (begin < text.size() && space(text[begin])) ++begin;
  text.erase(0, begin);
}

}  // namespace

std::string clean(std::string_view answer) {
  if (answer.size() > kMaxBytes) return {};
  std::string text(answer);
  if (auto boxed = last_boxed(text)) text = std::move(*boxed);
  if (text.find("nswer is") != std::string::npos || text.find("nswer:") != std::string::npos) {
    text = final_answer(text);  // a sentence about the answer
  }
  if (std::any_of(text.begin(), text.end(),
                  [](char c) { return static_cast<signed char>(c) < 0; })) {
    for (const auto& [sign, latex] : kUnicode) replace_all(text, sign, latex);
  }
  for (const std::string_view fence : {"\\(", "\\)", "\\[", "\\]"}) {
    // "\\[2pt]" ends a row: its second backslash belongs to the first.
    for (std::size_t at = text.find(fence); at != std::string::npos;
         at = text.find(fence, at + 1)) {
      if (!escaped(text, at)) text.replace(at, 2, " ");
    }
  }
  take_dollars(text);
  trim(text);
  take_half_of_day(text);
  if (text.size() > 4 && text.starts_with("**") && text.ends_with("**")) {
    text = text.substr(2, text.size() - 4);
    trim(text);
  }
  return text.size() > kMaxBytes ? std::string() : text;
}

std::string plain_words(std::string_view text) {
  static const std::map<std::string_view, std::string_view> same = {
      {"jan", "january"},    {"feb", "february"}, {"mar", "march"},     {"apr", "april"},
      {"jun", "june"},       {"jul", "july"},     {"aug", "august"},    {"sep", "september"},
      {"sept", "september"}, {"oct", "october"},  {"nov", "november"},  {"dec", "december"},
      {"mon", "monday"},     {"tue", "tuesday"},  {"wed", "wednesday"}, {"thu", "thursday"},
      {"fri", "friday"},     {"sat", "saturday"}, {"sun", "sunday"}};
  std::string result;
  std::string word;
  const auto end_word = [&] {
    if (word.empty()) return;
    const bool article = word == "a";  // "A" is a choice
    for (char& c : word) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (const auto value = number_of_word(word)) word = std::to_string(*value);
    if (const auto full = same.find(word); full != same.end()) word = full->second;
    const bool ordinal = word.size() > 2 &&
                         std::isdigit(static_cast<unsigned char>(word[0])) != 0 &&
                         (word.ends_with("th") || word.ends_with("st") || word.ends_with("nd") ||
                          word.ends_with("rd"));
    if (ordinal) word.resize(word.size() - 2);
    if (!article && word != "an" && word != "the") {
      result += (result.empty() ? "" : " ") + word;
    }
    word.clear();
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto u = static_cast<unsigned char>(text[i]);
    if (text[i] == '\\') {  // a command: a font, or a space
      end_word();
      while (i + 1 < text.size() && std::isalpha(static_cast<unsigned char>(text[i + 1])) != 0) ++i;
    } else if (std::isalnum(u) != 0 || u >= 0x80) {
      word += text[i];
    } else if (text[i] == '\'') {
      continue;
    } else {
      end_word();
    }
  }
  end_word();
  return result;
}

}  // namespace qad::score::math
