// One pass over the answer. What a run of letters means is decided here, by the words in
// math_words.h and by what stands before it; everything else is left to the parser.
#include "score/math_lexer.h"

#include <algorithm>
#include <cctype>
#include <optional>

#include "score/math_commands.h"
#include "score/math_words.h"

namespace qad::score::math {
namespace {

bool digit(char c) {
  return c >= '0' && c <= '9';
}
bool letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0;
}
bool upper(char c) {
  return c >= 'A' && c <= 'Z';
}
bool blank(char c) {
  return std::isspace(static_cast<unsigned char>(c)) != 0;
}

class Lexer {
 public:
  Lexer(std::string_view text, const LexOptions& options, bool& ambiguous)
      : text_(text), options_(options), ambiguous_(ambiguous) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) next();
    put(Token::kEnd, "");
    return std::move(tokens_);
  }

 private:
  char look(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  bool starts(std::string_view with) const { return text_.substr(at_).starts_with(with); }

  void put(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), space_});
    space_ = false;
  }

  void next() {
    const char c = look();
    if (blank(c) || c == '~') {
      space_ = true;
      ++at_;
    } else if (digit(c) ||
               (c == '.' && (digit(look(1)) || text_.substr(at_).starts_with(".\\overline")))) {
      take_number();
    } else if (letter(c)) {
      take_letters();
    } else if (c == '\\') {
      take_command();
    } else {
      take_symbol();
    }
  }

  // Digits after a separator at `from`: three, and no fourth.
  bool three_digits(std::size_t from) const {
    for (std::size_t i = 0; i < 3; ++i) {
      if (from + i >= text_.size() || !digit(text_[from + i])) return false;
    }
    return from + 3 >= text_.size() || !digit(text_[from + 3]);
  }

  // The length of a separator that is written only within numbers: {,} and ,\! and \, and a space
  // before three digits.
  std::size_t sure_separator() const {
    for (const std::string_view form : {"{,}", ",\\!", "\\!,\\!", "\\!,", "\\,"}) {
      if (!starts(form)) continue;
      std::size_t length = form.size();
      while (form != "\\," && at_ + length < text_.size() && text_[at_ + length] == ' ') ++length;
      if (three_digits(at_ + length)) return length;
    }
    if (look() == ' ' && !within_brackets() && three_digits(at_ + 1)) return 1;  // 10 080
    return 0;
  }

  bool within_brackets() const {
    return !open_.empty() && (open_.back() == '(' || open_.back() == '[' || open_.back() == 's');
  }

  // Whether ",ddd" here, and all that follow it, are thousands.
  bool thousands(std::size_t first_digits, bool leading_zero) {
    if (look() != ',' || first_digits > 3 || leading_zero || within_brackets()) return false;
    std::size_t i = at_;
    while (i < text_.size() && text_[i] == ',' && three_digits(i + 1)) i += 4;
    const bool list = i + 1 < text_.size() && text_[i] == ',' && digit(text_[i + 1]);
    if (i == at_ || list) return false;
    ambiguous_ = true;
    return options_.thousands;
  }

  void take_number() {
    std::string digits;
    std::size_t first = 0;
    while (true) {
      while (digit(look())) digits += text_[at_++];
      if (first == 0) first = digits.size();
      if (const std::size_t length = first > 0 && first <= 3 ? sure_separator() : 0) {
        at_ += length;
      } else if (!digits.empty() && thousands(first, digits[0] == '0')) {
        ++at_;
        first = 3;
      } else {
        break;
      }
    }
    if (look() == '.' && (digit(look(1)) || text_.substr(at_).starts_with(".\\overline"))) {
      digits += text_[at_++];
      while (digit(look())) digits += text_[at_++];
    }
    if (digits.find('.') != std::string::npos) {
      take_repeating(digits);
    } else if (take_based(digits)) {
      return;
    }
    if ((look() == 'e' || look() == 'E') &&
        (digit(look(1)) || ((look(1) == '-' || look(1) == '+') && digit(look(2))))) {
      digits += 'e';
      ++at_;
      if (look() == '-' || look() == '+') digits += text_[at_++];
      while (digit(look())) digits += text_[at_++];
    }
    put(Token::kNumber, digits);
  }

  void take_repeating(std::string& digits) {
    for (const std::string_view form : {"\\overline{", "\\bar{", "\\dot{"}) {
      if (!starts(form)) continue;
      std::size_t end = at_ + form.size();
      while (end < text_.size() && digit(text_[end])) ++end;
      if (end == at_ + form.size() || end >= text_.size() || text_[end] != '}') return;
      digits += '(';
      digits.append(text_.substr(at_ + form.size(), end - at_ - form.size()));
      digits += ')';
      at_ = end + 1;
      return;
    }
  }

  // "1A_{16}": digits above nine are capitals.
  bool take_based(const std::string& digits) {
    std::size_t end = at_;
    while (end < text_.size() && (digit(text_[end]) || upper(text_[end]))) ++end;
    if (end == at_ || end >= text_.size() || text_[end] != '_') return false;
    put(Token::kBased, digits + std::string(text_.substr(at_, end - at_)));
    at_ = end;
    return true;
  }

  void take_letters() {
    std::size_t end = at_;
    bool digits = false;
    while (end < text_.size() && (letter(text_[end]) || (upper(text_[at_]) && digit(text_[end])))) {
      digits = digits || digit(text_[end]);
      ++end;
    }
    if (digits && end < text_.size() && text_[end] == '_' && !letter(text_[end - 1]) &&
        std::all_of(text_.begin() + static_cast<long>(at_), text_.begin() + static_cast<long>(end),
                    [](char c) { return upper(c) || digit(c); })) {
      put(Token::kBased, std::string(text_.substr(at_, end - at_)));
      at_ = end;
      return;
    }
    end = at_;
    while (end < text_.size() && letter(text_[end])) ++end;
    const std::string_view word = text_.substr(at_, end - at_);
    if (known_word(word)) {
      at_ = end;
      return;
    }
    if (is_text(word)) {
      put(Token::kText, std::string(word));
      at_ = end;
      return;
    }
    if (word.size() > 2 && word.size() <= 4) {  // "sinx"
      const auto function = function_name(word.substr(0, word.size() - 1));
      if (function) {
        put(Token::kLetter, *function);
        put(Token::kLetter, std::string(1, word.back()));
        at_ = end;
        return;
      }
    }
    put(Token::kLetter, std::string(1, text_[at_++]));
  }

  bool known_word(std::string_view word) {
    if (word.size() < 2) return false;
    if (word == "and" || word == "or") {
      put(Token::kText, std::string(word));
    } else if (word == "infinity" || word == "infty" || word == "inf") {
      put(Token::kLetter, "infinity");
    } else if (word == "sqrt") {
      put(Token::kCommand, "sqrt");
    } else if (word == "pi" || is_greek(word)) {
      put(Token::kLetter, std::string(word));
    } else if (word == "in" && !after_value()) {
      put(Token::kSymbol, "in");
    } else if (word == "in" && after_value() && tokens_.back().kind == Token::kLetter) {
      put(Token::kSymbol, "in");
    } else if (const auto function = function_name(word);
               function && !(word == "min" && after_value())) {
      put(Token::kLetter, *function);
    } else {
      return false;
    }
    return true;
  }

  // Whether a run of letters is a word and not a product: long, in capitals, or a unit after a
  // number.
  bool is_text(std::string_view word) const {
    const bool capitals = std::all_of(word.begin(), word.end(), upper);
    if (word.size() >= 3 && capitals) return true;
    if (word.size() >= 2 && after_value() && is_unit_word(word)) return true;
    if (word.size() >= 2 && !tokens_.empty() && tokens_.back().kind == Token::kText && space_)
      return true;
    if (word.size() < 4 || function_name(word.substr(0, word.size() - 1))) return false;
    if (space_ || at_ == 0 || !after_value()) {
      const auto vowel = [](char c) {
        return std::string_view("aeiouyAEIOUY").find(c) != std::string_view::npos;
      };
      return std::any_of(word.begin(), word.end(), vowel);
    }
    return false;
  }

  bool after_value() const {
    if (tokens_.empty()) return false;
    const Token& last = tokens_.back();
    return last.kind == Token::kNumber || last.kind == Token::kLetter ||
           (last.kind == Token::kSymbol &&
            (last.text == ")" || last.text == "}" || last.text == "]"));
  }

  // The argument in braces at the cursor, without them, and the cursor after it; none if there is
  // none.
  std::optional<std::string_view> argument() {
    std::size_t i = at_;
    while (i < text_.size() && blank(text_[i])) ++i;
    if (i >= text_.size() || text_[i] != '{') return std::nullopt;
    int depth = 0;
    for (std::size_t j = i; j < text_.size(); ++j) {
      if (text_[j] == '\\') {
        ++j;
      } else if (text_[j] == '{') {
        ++depth;
      } else if (text_[j] == '}' && --depth == 0) {
        at_ = j + 1;
        return text_.substr(i + 1, j - i - 1);
      }
    }
    return std::nullopt;
  }

  void take_command() {
    std::size_t end = at_ + 1;
    while (end < text_.size() && letter(text_[end])) ++end;
    if (end == at_ + 1) {
      const char c = look(1);
      at_ += c == '\0' ? 1 : 2;
      if (c == '\\') {
        put(Token::kSymbol, "\\\\");
      } else if (c == '{' || c == '}' || c == '|' || c == '$') {
        if (c == '{') open_ += 's';
        if (c == '}' && !open_.empty()) open_.pop_back();
        put(Token::kSymbol, std::string("\\") + c);
      } else if (c == '%') {
        put(Token::kSymbol, "%");
      } else {
        space_ = space_ || (c != '!' && c != '\0');
      }
      return;
    }
    const std::string name(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end;
    if (look() == '*') ++at_;  // \operatorname*
    command(name);
  }

  void command(const std::string& name) {
    if (name == "mathbf" || name == "hat" || name == "vec" || name == "boldsymbol") {
      const std::size_t before = at_;
      const auto inside = argument();
      if (inside && (*inside == "i" || *inside == "j" || *inside == "k" || *inside == "\\imath")) {
        return put(Token::kLetter, "unit vector " + std::string(*inside));
      }
      at_ = before;
    }
    if ((name == "left" || name == "right") && look() == '.') {
      ++at_;
    } else if (only_sets_type(name)) {
      space_ = space_ || name == "quad" || name == "qquad";
    } else if (drops_argument(name)) {
      if (!argument() && look() == ' ') at_ += look(1) == '-' || look(1) == '+' ? 2 : 0;
    } else if (holds_words(name)) {
      words(name == "mathrm" || name == "operatorname");
    } else if (const auto symbol = symbol_of(name)) {
      put(Token::kSymbol, std::string(*symbol));
    } else if (name == "infty") {
      put(Token::kLetter, "infinity");
    } else if (name == "ldots" || name == "cdots" || name == "dots") {
      put(Token::kLetter, "...");
    } else if (name == "emptyset" || name == "varnothing") {
      put(Token::kLetter, "emptyset");
    } else if (name == "mathbb") {
      const auto set = argument();
      put(Token::kLetter, set == "R" ? "reals" : "set " + std::string(set.value_or("")));
    } else if (name == "begin" || name == "end") {
      const std::string kind(argument().value_or(""));
      if (name == "begin" && kind == "array") argument();
      put(Token::kCommand, name + "{" + kind + "}");
    } else if (name == "pi" || is_greek(name)) {
      put(Token::kLetter, name);
    } else if (name == "sqrt") {
      put(Token::kCommand, name);
    } else if (const auto function = function_name(name)) {
      put(Token::kLetter, *function);
    } else {
      put(Token::kCommand, name);
    }
  }

  // \text{...}: words; a formula in it is a formula. With `math` (\mathrm) a single letter is a
  // name.
  void words(bool math) {
    const auto found = argument();
    if (!found) return;
    std::string_view inside = *found;
    while (!inside.empty() && blank(inside.front())) inside.remove_prefix(1);
    while (!inside.empty() && blank(inside.back())) inside.remove_suffix(1);
    space_ = true;
    if (inside.empty()) return;
    if (math && inside.size() == 1) return put(Token::kLetter, std::string(inside));
    if (math && (function_name(inside) || is_greek(inside))) {
      return put(Token::kLetter, function_name(inside).value_or(std::string(inside)));
    }
    const char c = inside.front();
    const bool formula = digit(c) || c == '-' || c == '\\' || c == '$' || c == '.';
    if (formula && depth_ < 4) {
      LexOptions options = options_;
      Lexer inner(inside, options, ambiguous_);
      inner.depth_ = depth_ + 1;
      auto tokens = inner.run();
      tokens.pop_back();
      tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
      return;
    }
    std::size_t begin = 0;
    for (std::size_t i = 0; i <= inside.size(); ++i) {
      const bool end = i == inside.size() || inside[i] == ',' || inside[i] == ';';
      if (!end) continue;
      part(inside.substr(begin, i - begin));
      if (i < inside.size()) put(Token::kSymbol, ",");
      begin = i + 1;
    }
  }

  // Words between commas: "and B" is "and" and "B".
  void part(std::string_view words) {
    while (!words.empty() && blank(words.front())) words.remove_prefix(1);
    while (!words.empty() && blank(words.back())) words.remove_suffix(1);
    for (const std::string_view join : {"and", "or"}) {
      if (words == join || words.starts_with(std::string(join) + " ")) {
        put(Token::kText, std::string(join));
        words.remove_prefix(std::min(words.size(), join.size() + 1));
      }
    }
    if (!words.empty()) put(Token::kText, std::string(words));
  }

  void take_symbol() {
    for (const auto& [written, symbol] : {std::pair{"<=", "<="},
                                          {">=", ">="},
                                          {"!=", "!="},
                                          {"==", "="},
                                          {"->", "->"},
                                          {"**", "^"},
                                          {"...", "..."}}) {
      if (!starts(written)) continue;
      at_ += std::string_view(written).size();
      return put(symbol == std::string_view("...") ? Token::kLetter : Token::kSymbol, symbol);
    }
    const char c = text_[at_++];
    if (c == '"') {  // inches, or a quotation mark
      if (after_value()) put(Token::kText, "inches");
      return;
    }
    if (c == '(' || c == '[' || c == '{') open_ += c;
    if ((c == ')' || c == ']' || c == '}') && !open_.empty()) open_.pop_back();
    put(Token::kSymbol, std::string(1, c));
  }

  std::string_view text_;
  const LexOptions& options_;
  bool& ambiguous_;
  std::size_t at_ = 0;
  bool space_ = false;
  int depth_ = 0;
  std::string open_;  // open brackets, "s" for those of sets
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> lex(std::string_view cleaned, const LexOptions& options, bool& ambiguous) {
  return Lexer(cleaned, options, ambiguous).run();
}

}  // namespace qad::score::math
