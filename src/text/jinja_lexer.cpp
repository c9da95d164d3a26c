// The white-space rules are jinja2's: a tag alone on its line leaves nothing of the line behind.
#include "text/jinja_lexer.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "text/jinja_text.h"

namespace qad::text::jinja {
namespace {

bool space(char c) {
  return c == ' ' || (c >= 9 && c <= 13);
}
bool digit(char c) {
  return c >= '0' && c <= '9';
}
bool letter(char c) {
  return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         static_cast<unsigned char>(c) >= 0x80;
}

// Newlines become "\n" and one at the very end goes, as jinja2 has it.
std::string normalise(std::string_view source) {
  std::string out;
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      out += '\n';
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalise(source)) {}

  std::vector<Token> run() {
    while (pos_ < source_.size()) {
      const std::size_t tag = find_tag();
      const std::string kind = tag == source_.npos ? "" : source_.substr(tag, 2);
      std::size_t after = std::min(tag + 2, source_.size());
      char sign = 0;
      if (after < source_.size() && tag != source_.npos &&
          (source_[after] == '-' || source_[after] == '+'))
        sign = source_[after++];
      push_text(tag == source_.npos ? source_.size() : tag, sign, kind == "{%" || kind == "{#");
      if (tag == source_.npos) break;
      advance(after);
      if (kind == "{#") {
        comment();
      } else if (kind == "{{" || !raw()) {
        push(Token::kBegin, kind);
        expression(kind == "{{" ? "}}" : "%}");
      }
    }
    push(Token::kEof, "the end of the template");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void raise(std::string_view what) const {
    fail("chat_template", "line {}: {}", line_, what);
  }

  std::string_view rest() const { return std::string_view(source_).substr(pos_); }
  bool at(std::string_view text) const { return rest().starts_with(text); }

  void advance(std::size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(pos_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    pos_ = to;
  }
  void skip_space() {
    std::size_t end = pos_;
    while (end < source_.size() && space(source_[end])) ++end;
    advance(end);
  }
  void skip_newline() {
    if (at("\n")) advance(pos_ + 1);
  }
  void push(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), line_});
  }

  std::size_t find_tag() const {
    for (std::size_t i = source_.find('{', pos_); i != source_.npos; i = source_.find('{', i + 1)) {
      if (i + 1 < source_.size() &&
          std::string_view("{%#").find(source_[i + 1]) != std::string_view::npos)
        return i;
    }
    return source_.npos;
  }

  // Text up to `end`, without what the sign of the tag that follows (or lstrip_blocks) takes away.
  void push_text(std::size_t end, char sign, bool lstrip) {
    std::string_view text = std::string_view(source_).substr(pos_, end - pos_);
    if (sign == '-') {
      text = strip(text, "", 2);
    } else if (lstrip && sign != '+') {
      std::size_t line_start = text.rfind('\n') + 1;  // npos + 1 == 0
      const bool starts_line = line_start > 0 || pos_ == 0 || source_[pos_ - 1] == '\n';
      if (starts_line &&
          std::all_of(text.begin() + static_cast<std::ptrdiff_t>(line_start), text.end(), space))
        text = text.substr(0, line_start);
    }
    if (!text.empty()) push(Token::kText, std::string(text));
    advance(end);
  }

  void comment() {
    const std::size_t end = source_.find("#}", pos_);
    if (end == source_.npos) raise("{# without #}");
    const char sign = end > pos_ ? source_[end - 1] : ' ';
    advance(end + 2);
    if (sign == '-')
      skip_space();
    else if (sign != '+')
      skip_newline();
  }

  // After "{%": {% raw %} and all up to {% endraw %}.
  bool raw() {
    const auto word = [&](std::size_t i,
                          std::string_view name) -> std::size_t {  // end of "  name  %}" or npos
      while (i < source_.size() && space(source_[i])) ++i;
      if (source_.compare(i, name.size(), name) != 0) return source_.npos;
      i += name.size();
      while (i < source_.size() && space(source_[i])) ++i;
      if (i < source_.size() && (source_[i] == '-' || source_[i] == '+')) ++i;
      return source_.compare(i, 2, "%}") == 0 ? i + 2 : source_.npos;
    };
    const std::size_t body = word(pos_, "raw");
    if (body == source_.npos) return false;
    const bool strip_left = source_[body - 3] == '-';
    advance(body);
    if (strip_left) skip_space();
    for (std::size_t i = source_.find("{%", pos_); i != source_.npos;
         i = source_.find("{%", i + 1)) {
      std::size_t name = i + 2;
      const char sign = name < source_.size() ? source_[name] : 0;
      if (sign == '-' || sign == '+') ++name;
      const std::size_t end = word(name, "endraw");
      if (end == source_.npos) continue;
      push_text(i, sign, true);
      const char last = source_[end - 3];
      advance(end);
      if (last == '-')
        skip_space();
      else if (last != '+')
        skip_newline();
      return true;
    }
    raise("{% raw %} without {% endraw %}");
  }

  // Tokens up to `end` ("}}" or "%}"), which does not count inside brackets.
  void expression(std::string_view end) {
    std::string open;  // brackets
    for (;;) {
      skip_space();
      if (pos_ >= source_.size()) raise("the template ends inside a tag");
      if (open.empty()) {
        const bool minus = at("-") && rest().substr(1).starts_with(end);
        const bool plus = end == "%}" && at("+%}");
        if (minus || plus || at(end)) {
          push(Token::kEnd, std::string(end));
          advance(pos_ + end.size() + (minus || plus));
          if (minus)
            skip_space();
          else if (!plus && end == "%}")
            skip_newline();
          return;
        }
      }
      const char c = source_[pos_];
      if (letter(c))
        name();
      else if (digit(c))
        number();
      else if (c == '\'' || c == '"')
        string(c);
      else
        bracket_or_operator(c, open);
    }
  }

  void name() {
    std::size_t i = pos_;
    while (i < source_.size() && (letter(source_[i]) || digit(source_[i]))) ++i;
    push(Token::kName, source_.substr(pos_, i - pos_));
    advance(i);
  }

  void number() {
    if (at("0x") || at("0X") || at("0b") || at("0B") || at("0o") || at("0O"))
      raise("hexadecimal, octal and binary numbers are not supported");
    const bool after_dot = pos_ > 0 && source_[pos_ - 1] == '.';
    const auto digits = [&](std::size_t i) {
      while (i < source_.size() &&
             (digit(source_[i]) || (source_[i] == '_' && i + 1 < source_.size() &&
                                    digit(source_[i + 1]) && digit(source_[i - 1]))))
        ++i;
      return i;
    };
    std::size_t i = digits(pos_);
    bool real = false;
    if (!after_dot) {
      if (i + 1 < source_.size() && source_[i] == '.' && digit(source_[i + 1])) {
        i = digits(i + 1);
        real = true;
      }
      if (i < source_.size() && (source_[i] == 'e' || source_[i] == 'E')) {
        std::size_t exponent = i + 1;
        if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-'))
          ++exponent;
        if (exponent < source_.size() && digit(source_[exponent])) {
          i = digits(exponent);
          real = true;
        }
      }
    }
    std::string text = source_.substr(pos_, i - pos_);
    std::erase(text, '_');
    push(real ? Token::kFloat : Token::kInteger, std::move(text));
    advance(i);
  }

  void string(char quote) {
    std::size_t i = pos_ + 1;
    while (i < source_.size() && source_[i] != quote) i += source_[i] == '\\' ? 2 : 1;
    if (i >= source_.size()) raise("a string without its closing quote");
    push(Token::kString, unescape(std::string_view(source_).substr(pos_ + 1, i - pos_ - 1)));
    advance(i + 1);
  }

  void bracket_or_operator(char c, std::string& open) {
    constexpr std::string_view kOpen = "([{", kClose = ")]}";
    for (const std::string_view two : {"**", "//", "==", "!=", ">=", "<="}) {
      if (!at(two)) continue;
      push(Token::kOperator, std::string(two));
      return advance(pos_ + 2);
    }
    if (std::string_view("+-*/%~[](){}<>=.:|,").find(c) == std::string_view::npos)
      raise(fmt::format("unexpected character '{}'", c));
    if (kOpen.find(c) != kOpen.npos) open += c;
    if (const auto k = kClose.find(c); k != kClose.npos) {
      if (open.empty() || open.back() != kOpen[k]) raise(fmt::format("unexpected '{}'", c));
      open.pop_back();
    }
    push(Token::kOperator, std::string(1, c));
    advance(pos_ + 1);
  }

  const std::string source_;
  std::size_t pos_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> lex(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace qad::text::jinja
