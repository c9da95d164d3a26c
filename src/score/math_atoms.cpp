// Factors: atoms with the powers and signs that follow them, functions, fractions, matrices,
// brackets.
#include <cctype>

#include "score/math_parser_class.h"
#include "score/math_words.h"

namespace qad::score::math {
namespace {

bool names_function(const std::string& word) {
  return word.size() > 1 && function_name(word).has_value();
}

}  // namespace

// An atom with what follows it: powers, subscripts, !, %, degrees.
Expr Parser::factor() {
  const Deeper deeper(depth_);
  Expr e = atom();
  while (true) {
    if (is("^") && (is("circ", 1) || (is("{", 1) && is("circ", 2) && is("}", 3)))) {
      at_ += is("circ", 1) ? 2 : 4;
      e = nested(degrees(std::move(e)));
    } else if (take("circ")) {
      e = nested(degrees(std::move(e)));
    } else if (is("^")) {
      ++at_;
      e = nested(raised(std::move(e)));
    } else if (is("!") && !look().space) {
      ++at_;
      e = nested(node(Kind::kCall, {std::move(e)}, "factorial"));
    } else if (take("%")) {
      e = nested(node(Kind::kPercent, {std::move(e)}));
    } else if (take("'")) {
      if (e.kind == Kind::kName) e.name += "'";
    } else {
      return e;
    }
  }
}

Expr Parser::degrees(Expr e) {
  const bool scale = look().kind == Token::kLetter && (look().text == "C" || look().text == "F");
  if (scale) return node(Kind::kUnit, {std::move(e)}, "degrees " + tokens_[at_++].text);
  return node(Kind::kDegree, {std::move(e)});
}

Expr Parser::raised(Expr base) {
  if (is("{") && look(1).kind == Token::kText && is("}", 2)) {  // 5^{\text{th}}
    at_ += 3;
    return base;
  }
  if (look().kind == Token::kText) {
    ++at_;
    return base;
  }
  return node(Kind::kPower, {std::move(base), exponent()});
}

Expr Parser::exponent() {
  if (is("{")) return group();
  bool negative = false;
  while (is("-") || is("+")) {
    negative = negative != is("-");
    ++at_;
  }
  const Deeper deeper(depth_);
  Expr e = atom();
  return negative ? node(Kind::kNegative, {std::move(e)}) : e;
}

// {...}; with a comma in it, a set.
Expr Parser::group() {
  const Deeper deeper(depth_);
  expect("{");
  const int bars = std::exchange(bars_, 0);
  const bool in_set = std::exchange(in_set_, false);
  Expr e = list();
  if (is_command("over")) {
    ++at_;
    e = node(Kind::kQuotient, {std::move(e), list()});
  } else if (is_command("choose")) {
    ++at_;
    e = node(Kind::kCall, {std::move(e), list()}, "binom");
  }
  bars_ = bars;
  in_set_ = in_set;
  expect("}");
  if (e.kind == Kind::kList) e.kind = Kind::kSet;
  return e;
}

// An argument of \frac: a group or one token, of a number its first digit.
Expr Parser::argument() {
  if (is("{")) return group();
  Token& t = tokens_[std::min(at_, tokens_.size() - 1)];
  if (t.kind == Token::kNumber && t.text.size() > 1 &&
      t.text.find_first_not_of("0123456789") == std::string::npos) {
    const Expr e = number(t.text[0] - '0');
    t.text.erase(0, 1);
    return e;
  }
  if (is("-")) return signed_factor();
  const Deeper deeper(depth_);
  return atom();
}

Expr Parser::atom() {
  const Token token = look();
  switch (token.kind) {
    case Token::kNumber:
    case Token::kBased:
      ++at_;
      return numeral(token);
    case Token::kLetter:
      ++at_;
      return named(token.text);
    case Token::kText: {
      ++at_;
      if (is("_")) {
        if (auto e = in_base(token.text)) return std::move(*e);
      }
      return node(Kind::kText, {}, token.text);
    }
    case Token::kCommand:
      ++at_;
      return command(token.text);
    case Token::kSymbol:
      return symbol(token.text);
    case Token::kEnd:
      break;
  }
  throw Unreadable();
}

Expr Parser::named(const std::string& letter) {
  if (names_function(letter)) return function(letter);
  Expr e = name(letter);
  if (letter == "emptyset") return node(Kind::kSet, {});
  if (is("_")) {
    ++at_;
    e.name += '_';
    e.name += raw_argument();
  }
  while (take("'")) e.name += "'";
  const bool callable = letter == "f" || letter == "g" || letter == "h" || letter == "F" ||
                        letter == "G" || letter == "P";
  if (callable && is("(") && !look().space) {
    ambiguous_.functions = true;
    if (options_.functions) {
      Expr argument = atom();
      std::vector<Expr> args;
      if (argument.kind == Kind::kTuple) {
        args = std::move(argument.args);
      } else {
        args.push_back(std::move(argument));
      }
      return node(Kind::kCall, std::move(args), e.name);
    }
  }
  return e;
}

// The text of a group or token, as part of a name.
std::string Parser::raw_argument() {
  if (!take("{")) return tokens_[std::min(at_++, tokens_.size() - 1)].text;
  std::string text;
  int depth = 1;
  while (look().kind != Token::kEnd) {
    if (is("{")) ++depth;
    if (is("}") && --depth == 0) break;
    text += look().text;
    ++at_;
  }
  expect("}");
  return text;
}

Expr Parser::function(std::string word) {
  const Deeper deeper(depth_);
  std::optional<Expr> base;
  std::optional<Expr> power;
  if (word == "log" && take("_")) base = argument();
  if ((word == "max" || word == "min") && take("_")) raw_argument();
  if (is("^") && !is("circ", 1)) {
    ++at_;
    power = exponent();
    const bool inverse = power->kind == Kind::kNegative && power->args[0].kind == Kind::kNumber &&
                         power->args[0].number == 1;
    if (inverse && (word == "sin" || word == "cos" || word == "tan")) {
      word = "arc" + word;
      power.reset();
    }
  }
  if (word == "log" && !base && take("_")) base = argument();
  Expr value = bare_or_bracketed();
  std::vector<Expr> args;
  const bool many = word == "gcd" || word == "lcm" || word == "max" || word == "min";
  if (many && (value.kind == Kind::kTuple || value.kind == Kind::kSet)) {
    args = std::move(value.args);
  } else {
    args.push_back(std::move(value));
  }
  if (word == "log") args.insert(args.begin(), base ? std::move(*base) : number(10));
  Expr e = node(Kind::kCall, std::move(args), word);
  return power ? node(Kind::kPower, {std::move(e), std::move(*power)}) : e;
}

// What a function applies to: brackets, or the factors up to the next function or sign.
Expr Parser::bare_or_bracketed() {
  if (is("(") || is("{") || is("[") || is("\\{")) return atom();
  bool negative = false;
  if (is("-")) {
    negative = true;
    ++at_;
  }
  Expr e = factor();
  while (starts_factor() && !is("(") && !is("[") && !is("\\$") &&
         !(look().kind == Token::kLetter && names_function(look().text))) {
    e = times(std::move(e), factor());
  }
  return negative ? node(Kind::kNegative, {std::move(e)}) : e;
}

Expr Parser::command(const std::string& word) {
  const Deeper deeper(depth_);
  if (word == "frac" || word == "dfrac" || word == "tfrac" || word == "cfrac" || word == "sfrac" ||
      word == "nicefrac") {
    Expr above = argument();
    Expr below = argument();
    return node(Kind::kQuotient, {std::move(above), std::move(below)});
  }
  if (word == "binom" || word == "dbinom" || word == "tbinom") {
    Expr above = argument();
    Expr below = argument();
    return node(Kind::kCall, {std::move(above), std::move(below)}, "binom");
  }
  if (word == "sqrt") {
    if (take("[")) {
      Expr degree = list();
      expect("]");
      Expr inside = is("{") ? group() : atom();
      return node(Kind::kCall, {std::move(degree), std::move(inside)}, "root");
    }
    Expr inside = is("{") ? group() : atom();
    return node(Kind::kCall, {std::move(inside)}, "sqrt");
  }
  if (word == "lfloor" || word == "lceil") {
    Expr inside = list();
    if (!is_command(word == "lfloor" ? "rfloor" : "rceil")) throw Unreadable();
    ++at_;
    return node(Kind::kCall, {std::move(inside)}, word == "lfloor" ? "floor" : "ceil");
  }
  if (word.starts_with("begin{")) return matrix(word.substr(6, word.size() - 7));
  if (word.starts_with("end{") || word == "sum" || word == "int" || word == "prod" || word == "lim")
    throw Unreadable();
  return name("\\" + word);
}

Expr Parser::matrix(const std::string& kind) {
  const bool lines = kind == "cases" || kind.starts_with("align") || kind.starts_with("gather");
  if (lines) return equations(kind);
  if (kind.find("matrix") == std::string::npos && kind != "array") throw Unreadable();
  Expr e = node(Kind::kMatrix, {});
  int column = 0;
  const auto end_row = [&] {
    if (e.columns == 0) e.columns = column;
    if (column != e.columns) throw Unreadable();
    column = 0;
  };
  const std::string end = "end{" + kind + "}";
  while (!is_command(end)) {
    e.args.push_back(relation());
    ++column;
    if (take("\\\\")) {
      end_row();
      if (is("[") && look(1).kind == Token::kNumber && look(2).kind == Token::kText && is("]", 3))
        at_ += 4;  // [2pt]
    } else if (!is_command(end)) {
      expect("&");
    }
  }
  ++at_;
  if (column > 0) end_row();
  if (e.args.empty()) throw Unreadable();
  return kind == "vmatrix" ? node(Kind::kCall, {std::move(e)}, "det") : e;
}

// The lines of cases and align, as a list.
Expr Parser::equations(const std::string& kind) {
  std::vector<Expr> items;
  while (!is_command("end{" + kind + "}")) {
    while (take("&")) {
    }
    items.push_back(relation());
    while (take("&") || take(",") || take("\\\\")) {
    }
  }
  ++at_;
  return node(Kind::kList, std::move(items));
}

Expr Parser::symbol(const std::string& sign) {
  const Deeper deeper(depth_);
  ++at_;
  if (sign == "(" || sign == "[") return bracketed(sign);
  if (sign == "{") {
    --at_;
    return group();
  }
  if (sign == "\\{") return braces();
  if (sign == "\\langle" || sign == "<") {
    const bool before = std::exchange(in_angles_, sign == "<");
    Expr e = list();
    in_angles_ = before;
    expect(sign == "<" ? ">" : "\\rangle");
    if (e.kind == Kind::kList) return node(Kind::kTuple, std::move(e.args), "<>");
    throw Unreadable();
  }
  if (sign == "|" || sign == "\\|") {
    const int bars = std::exchange(bars_, 1);
    Expr e = list();
    bars_ = bars;
    expect(sign);
    return node(Kind::kCall, {std::move(e)}, "abs");
  }
  if (sign == "\\$") {
    Expr e = factor();
    return node(Kind::kUnit, {std::move(e)}, "dollars");
  }
  if (sign == "-" || sign == "+") {  // 2*-3
    Expr e = factor();
    return sign == "-" ? node(Kind::kNegative, {std::move(e)}) : e;
  }
  throw Unreadable();
}

Expr Parser::bracketed(const std::string& open) {
  const int bars = std::exchange(bars_, 0);
  const bool in_set = std::exchange(in_set_, false);
  const bool in_angles = std::exchange(in_angles_, false);
  Expr e = list();
  if (is_command("choose")) {
    ++at_;
    e = node(Kind::kCall, {std::move(e), list()}, "binom");
  }
  bars_ = bars;
  in_set_ = in_set;
  in_angles_ = in_angles;
  if (!is(")") && !is("]")) throw Unreadable();
  const std::string brackets = open + look().text;
  ++at_;
  if (e.kind == Kind::kList) return node(Kind::kTuple, std::move(e.args), brackets);
  if (brackets != "()" && brackets != "[]") throw Unreadable();
  return e;
}

Expr Parser::braces() {
  if (take("\\}")) return node(Kind::kSet, {});
  const int bars = std::exchange(bars_, 0);
  const bool in_set = std::exchange(in_set_, true);
  Expr e = list();
  if (take("|") || take(":")) e = list();  // {x | x > 2} is what its condition says
  in_set_ = in_set;
  bars_ = bars;
  expect("\\}");
  if (e.kind == Kind::kRelation) return e;
  if (e.kind == Kind::kList) return node(Kind::kSet, std::move(e.args));
  return node(Kind::kSet, {std::move(e)});
}

}  // namespace qad::score::math
