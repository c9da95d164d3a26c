// What a response answers.
#include <algorithm>
#include <cctype>
#include <utility>

#include "score/math.h"

namespace qad::score {
namespace {

bool digit(char c) {
  return c >= '0' && c <= '9';
}
bool blank(char c) {
  return std::isspace(static_cast<unsigned char>(c)) != 0;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

struct Span {
  std::size_t begin = 0, end = 0;
};

// The last number: its digits, separators and sign.
std::optional<Span> number_span(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0 && !digit(text[end - 1])) --end;
  if (end == 0) return std::nullopt;
  const auto part = [&](std::size_t i) {
    if (digit(text[i])) return true;
    if (i + 1 >= end || !digit(text[i + 1])) return false;
    if (text[i] == '.') return true;
    const bool group = i + 3 < end && digit(text[i + 2]) && digit(text[i + 3]) &&
                       (i + 4 == end || !digit(text[i + 4]));
    return text[i] == ',' && group && i > 0 && digit(text[i - 1]);
  };
  std::size_t begin = end;
  bool point = false;
  while (begin > 0 && part(begin - 1)) {
    if (text[begin - 1] == '.' && std::exchange(point, true)) break;
    if (text[begin - 1] == ',' && begin < 2) break;
    --begin;
  }
  while (begin < end && text[begin] == ',') ++begin;
  std::size_t sign = begin;
  while (sign > 0 && (text[sign - 1] == '$' || text[sign - 1] == '\\')) --sign;
  const bool minus = sign > 0 && text[sign - 1] == '-' &&
                     (sign == 1 || (std::isalnum(static_cast<unsigned char>(text[sign - 2])) == 0 &&
                                    text[sign - 2] != ')'));
  return Span{minus ? sign - 1 : begin, end};
}

// The last formula between delimiters. A dollar sign opens one before what is no space, and closes
// it after what is no space and before what is no digit: "$5 and $6" is money.
std::optional<Span> formula_span(std::string_view text) {
  std::optional<Span> last;
  const std::size_t last_round =
      text.rfind("\\)");  // not sought again after each \( that stays open
  const std::size_t last_square = text.rfind("\\]");
  const auto closing = [&](char open, std::size_t from) {
    const std::size_t latest = open == '('   ? last_round
                               : open == '[' ? last_square
                                             : std::string_view::npos;
    if (latest == std::string_view::npos || latest < from) return std::string_view::npos;
    return text.find(open == '(' ? "\\)" : "\\]", from);
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) {
      const std::size_t end = closing(text[i + 1], i + 2);
      if (end != std::string_view::npos) {
        last = Span{i + 2, end};
        i = end;
      }
      ++i;
      continue;
    }
    if (text[i] != '$') continue;
    const std::size_t width = text.substr(i).starts_with("$$") ? 2 : 1;
    const std::size_t begin = i + width;
    if (begin >= text.size() || (width == 1 && blank(text[begin]))) continue;
    for (std::size_t end = begin; end < text.size(); ++end) {
      if (text[end] == '\\') {
        ++end;
        continue;
      }
      if (text[end] != '$') continue;
      const bool closes =
          width == 2 ? text.substr(end).starts_with("$$")
                     : !blank(text[end - 1]) && (end + 1 == text.size() || !digit(text[end + 1]));
      if (closes && end > begin) {
        last = Span{begin, end};
        i = end + width - 1;
      }
      break;
    }
  }
  return last;
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

std::string_view line_at(std::string_view text, std::size_t begin) {
  return text.substr(begin, text.find('\n', begin) - begin);
}

// What follows "answer is" up to the end of its sentence, or its one formula.
std::optional<std::string> announced(std::string_view response) {
  const std::string plain = lower(response);
  std::size_t best = std::string::npos;
  for (const std::string_view phrase :
       {"####", "answer is:", "answer is", "answer:", "answer:**"}) {
    const std::size_t at = plain.rfind(phrase);
    if (at != std::string::npos && (best == std::string::npos || at + phrase.size() > best))
      best = at + phrase.size();
  }
  if (best == std::string::npos) return std::nullopt;
  std::string_view rest = trimmed(line_at(response, best));
  if (rest.empty()) {  // on the next line
    const std::string_view below = response.substr(best);
    const std::size_t begin = below.find_first_not_of(" \t\r\n:*");
    if (begin == std::string_view::npos) return std::nullopt;
    rest = trimmed(line_at(below, begin));
  }
  if (const auto formula = formula_span(rest))
    return std::string(trimmed(rest.substr(formula->begin, formula->end - formula->begin)));
  while (!rest.empty() &&
         (rest.front() == '*' || rest.front() == ':' || rest.front() == '}' || blank(rest.front())))
    rest.remove_prefix(1);
  for (std::size_t i = 0; i + 1 < rest.size(); ++i) {
    if ((rest[i] == '.' || rest[i] == '!') && blank(rest[i + 1])) {
      rest = rest.substr(0, i);
      break;
    }
  }
  while (!rest.empty() && (rest.back() == '*' || rest.back() == '.' || blank(rest.back())))
    rest.remove_suffix(1);
  if (rest.empty()) return std::nullopt;
  return std::string(rest);
}

}  // namespace

std::optional<std::string> last_boxed(std::string_view response) {
  std::size_t begin = std::string_view::npos;
  std::size_t after = 0;
  for (const std::string_view command : {"\\boxed", "\\fbox"}) {
    const std::size_t at = response.rfind(command);
    if (at != std::string_view::npos && (begin == std::string_view::npos || at > begin)) {
      begin = at;
      after = at + command.size();
    }
  }
  if (begin == std::string_view::npos) return std::nullopt;
  while (after < response.size() && response[after] == ' ') ++after;
  if (after >= response.size()) return std::nullopt;
  if (response[after] != '{') {
    const std::size_t end = response.find_first_of(" $\n", after);
    const std::string_view bare = trimmed(response.substr(after, end - after));
    return bare.empty() ? std::nullopt : std::optional(std::string(bare));
  }
  int depth = 0;
  for (std::size_t i = after; i < response.size(); ++i) {
    if (response[i] == '\\') {
      ++i;
    } else if (response[i] == '{') {
      ++depth;
    } else if (response[i] == '}' && --depth == 0) {
      return std::string(trimmed(response.substr(after + 1, i - after - 1)));
    }
  }
  return std::nullopt;
}

std::optional<std::string> last_number(std::string_view response) {
  const auto span = number_span(response);
  if (!span) return std::nullopt;
  std::string digits;
  for (const char c : response.substr(span->begin, span->end - span->begin)) {
    if (c != ',' && c != '$' && c != '\\') digits += c;
  }
  return digits;
}

std::string final_answer(std::string_view response) {
  if (auto boxed = last_boxed(response)) return std::move(*boxed);
  if (auto said = announced(response)) return std::move(*said);
  const auto formula = formula_span(response);
  const auto number = number_span(response);
  if (formula && (!number || number->end <= formula->end)) {
    return std::string(trimmed(response.substr(formula->begin, formula->end - formula->begin)));
  }
  if (auto digits = last_number(response)) return std::move(*digits);
  const std::string_view text = trimmed(response);
  return std::string(trimmed(text.substr(text.rfind('\n') + 1)));
}

}  // namespace qad::score
