// Verdicts: by words where an answer is words, by the readings of both where it is mathematics.
#include <algorithm>
#include <cctype>

#include "score/math.h"
#include "score/math_compare.h"
#include "score/math_lexer.h"
#include "score/math_parser.h"

namespace qad::score {
namespace {

// "(B)", "b", "B.", "B) 12": the letter that names a choice, where the reference is such a letter.
bool same_choice(const std::string& reference, const std::string& answer) {
  const std::string letter = math::plain_words(reference);
  if (letter.size() != 1 || letter[0] < 'a' || letter[0] > 'h') return false;
  const bool bare = reference.size() == 1;
  if (bare && std::isupper(static_cast<unsigned char>(reference[0])) == 0) return false;
  if (!bare && reference.find("text") == std::string::npos &&
      reference.find('(') == std::string::npos)
    return false;
  std::size_t at = 0;
  while (at < answer.size() && (answer[at] == '(' || answer[at] == '*' || answer[at] == ' ')) ++at;
  if (answer.compare(at, 6, "\\text{") == 0) at += 6;
  if (answer.compare(at, 8, "\\textbf{") == 0) at += 8;
  if (at < answer.size() && answer[at] == '(') ++at;
  if (at >= answer.size() || std::tolower(static_cast<unsigned char>(answer[at])) != letter[0])
    return false;
  if (at + 1 == answer.size()) return true;
  const char next = answer[at + 1];
  return next == ')' || next == '.' || next == ':' || next == '}';
}

// The words of an answer that has nothing but words (or a letter, in \text): "October 30", "two
// lines", "non-zero".
std::optional<std::string> spoken(const std::string& answer) {
  static constexpr std::string_view kFonts[] = {"\\text",       "\\textbf",      "\\textit",
                                                "\\textrm",     "\\mathrm",      "\\mbox",
                                                "\\textnormal", "\\operatorname"};
  bool quoted = false;
  std::size_t letters = 0;
  for (std::size_t i = 0; i < answer.size(); ++i) {
    const char c = answer[i];
    const auto alphanumeric = [&answer](std::size_t at) {
      return at < answer.size() && std::isalnum(static_cast<unsigned char>(answer[at])) != 0;
    };
    if (c == '\\') {
      std::size_t end = i + 1;
      while (end < answer.size() && std::isalpha(static_cast<unsigned char>(answer[end])) != 0)
        ++end;
      const std::string_view command = std::string_view(answer).substr(i, end - i);
      const bool font =
          std::find(std::begin(kFonts), std::end(kFonts), command) != std::end(kFonts);
      if (!font && command != "\\") return std::nullopt;
      quoted = quoted || font;
      i = font ? end - 1 : i + 1;
    } else if (c == '-' || c == '.' || c == ',') {  // -5, 5.4 and 1,2 are no words
      if (alphanumeric(i + 1) && (c == '-' ? i == 0 || !alphanumeric(i - 1) : true) &&
          std::isdigit(static_cast<unsigned char>(answer[i + 1])) != 0)
        return std::nullopt;
      if (c == '-' && (i == 0 || !alphanumeric(i - 1) || !alphanumeric(i + 1))) return std::nullopt;
    } else if (std::isalpha(static_cast<unsigned char>(c)) != 0) {
      ++letters;
    } else if (!alphanumeric(i) && std::isspace(static_cast<unsigned char>(c)) == 0 &&
               static_cast<unsigned char>(c) < 0x80 &&
               std::string_view("{}()'").find(c) == std::string_view::npos) {
      return std::nullopt;
    }
  }
  std::string words = math::plain_words(answer);
  const bool short_word = words == "yes" || words == "no" || words == "odd" || words == "may";
  std::size_t longest = 0;
  for (std::size_t i = 0, run = 0; i < words.size(); ++i) {
    run = std::isalpha(static_cast<unsigned char>(words[i])) != 0 ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  if (letters == 0 || (longest < 4 && !quoted && !short_word)) return std::nullopt;
  return words;
}

// Words alone, or what only differs in spaces.
bool same_words(const std::string& reference, const std::string& answer) {
  const auto squeezed = [](const std::string& text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (std::isspace(static_cast<unsigned char>(text[i])) != 0) continue;
      // 2 1/2 is not 21/2.
      const bool apart = i > 0 && std::isspace(static_cast<unsigned char>(text[i - 1])) != 0;
      if (apart && !result.empty() && std::isdigit(static_cast<unsigned char>(text[i])) != 0)
        result += ' ';
      result += text[i];
    }
    return result;
  };
  if (squeezed(reference) == squeezed(answer)) return true;
  const std::optional<std::string> left = spoken(reference);
  const std::optional<std::string> right = spoken(answer);
  return left && right && *left == *right;
}

}  // namespace

bool math_equal(std::string_view reference, std::string_view answer) {
  const std::string r = math::clean(reference);
  const std::string a = math::clean(answer);
  if (r.empty() || a.empty()) return !reference.empty() && reference == answer;
  if (same_words(r, a) || same_choice(r, a)) return true;
  const auto answers = math::parse(a);
  for (const math::Expr& x : math::parse(r)) {
    for (const math::Expr& y : answers) {
      if (math::same_answer(x, y)) return true;
    }
  }
  return false;
}

}  // namespace qad::score
