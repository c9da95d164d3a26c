// Recursive descent, from what holds answers (lists, relations, unions) to sums and products. What
// cannot be read throws Unreadable, which parse() catches; depth and the number of tokens are
// bounded.
#include "score/math_parser.h"

#include <algorithm>

#include "score/math_parser_class.h"

namespace qad::score::math {

Expr Parser::answer() {
  while (is("=") || is("~")) ++at_;  // "= 5"
  Expr e = list();
  if (look().kind != Token::kEnd) throw Unreadable();
  return e;
}

Expr Parser::nested(Expr e) {
  if (++nested_ > kMaxNested) throw Unreadable();
  return e;
}

const Token& Parser::look(std::size_t ahead) const {
  return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
}

bool Parser::is(std::string_view symbol, std::size_t ahead) const {
  return look(ahead).kind == Token::kSymbol && look(ahead).text == symbol;
}

bool Parser::is_command(std::string_view command) const {
  return look().kind == Token::kCommand && look().text == command;
}

bool Parser::take(std::string_view symbol) {
  if (!is(symbol)) return false;
  ++at_;
  return true;
}

void Parser::expect(std::string_view symbol) {
  if (!take(symbol)) throw Unreadable();
}

bool Parser::is_join() const {
  return (look().kind == Token::kText && (look().text == "and" || look().text == "or")) ||
         is("and") || is("or");
}

// a, b and c
Expr Parser::list() {
  const Deeper deeper(depth_);
  std::vector<Expr> items;
  std::string join;
  if (ends_list()) throw Unreadable();
  while (true) {
    items.push_back(relation());
    bool separated = false;
    while (is(",") || is(";") || is_join()) {
      if (is_join()) join = look().text;
      separated = true;
      ++at_;
    }
    if (!separated || ends_list()) break;
  }
  if (items.size() == 1) return std::move(items[0]);
  return node(Kind::kList, std::move(items), join);
}

bool Parser::ends_list() const {
  return look().kind == Token::kEnd || is(")") || is("]") || is("}") || is("\\}") || is("\\rangle");
}

std::optional<std::string> Parser::relation_sign() const {
  if (look().kind != Token::kSymbol || (in_angles_ && look().text == ">")) return std::nullopt;
  for (const std::string_view sign : {"=", "~", "!=", "<", "<=", ">", ">=", "in", "->"}) {
    if (look().text == sign) return std::string(sign == "->" ? "=" : sign);
  }
  return std::nullopt;
}

Expr Parser::relation() {
  std::vector<Expr> sides{set()};
  std::vector<std::string> signs;
  while (auto sign = relation_sign()) {
    ++at_;
    signs.push_back(std::move(*sign));
    sides.push_back(set());
  }
  if (signs.empty()) return std::move(sides[0]);
  Expr e = node(Kind::kRelation, std::move(sides));
  e.relations = std::move(signs);
  return e;
}

Expr Parser::set() {
  Expr e = ratio();
  while (true) {
    const Kind kind = is("cup")   ? Kind::kUnion
                      : is("cap") ? Kind::kIntersection
                                  : Kind::kDifference;
    if (!is("cup") && !is("cap") && !is("setminus")) return e;
    ++at_;
    Expr right = ratio();
    if (kind == Kind::kUnion && e.kind == Kind::kUnion) {
      e.args.push_back(std::move(right));
    } else {
      e = nested(node(kind, {std::move(e), std::move(right)}));
    }
  }
}

Expr Parser::ratio() {
  Expr first = sum();
  if (!is(":") || in_set_) return first;
  std::vector<Expr> parts{std::move(first)};
  while (take(":")) parts.push_back(sum());
  // "8:34 p.m.": the unit is that of the whole.
  if (parts.back().kind != Kind::kUnit) return node(Kind::kRatio, std::move(parts));
  Expr last = std::move(parts.back());
  parts.back() = std::move(last.args[0]);
  return node(Kind::kUnit, {node(Kind::kRatio, std::move(parts))}, last.name);
}

Expr Parser::sum() {
  const Deeper deeper(depth_);
  bool negative = false;
  bool both = false;
  std::string sign;
  while (is("+") || is("-") || is("pm") || is("mp")) {
    if (is("-")) negative = !negative;
    if (is("pm") || is("mp")) {
      both = true;
      sign = look().text;
    }
    ++at_;
  }
  Expr e = product();
  if (negative) e = node(Kind::kNegative, {std::move(e)});
  if (both) e = node(Kind::kPlusMinus, {std::move(e)}, sign);
  while (true) {
    if (look().kind == Token::kText && !is_join()) {
      e = nested(with_unit(std::move(e)));
    } else if (is("+") || is("-")) {
      const bool minus = is("-");
      ++at_;
      bool flip = minus;
      while (is("+") || is("-")) {
        flip = flip != is("-");
        ++at_;
      }
      Expr right = product();
      if (flip) right = node(Kind::kNegative, {std::move(right)});
      if (e.kind == Kind::kSum) {
        e.args.push_back(std::move(right));
      } else {
        e = node(Kind::kSum, {std::move(e), std::move(right)});
      }
    } else if (is("pm") || is("mp")) {
      sign = look().text;
      ++at_;
      Expr right = product();
      e = nested(node(Kind::kPlusMinus, {std::move(e), std::move(right)}, sign));
    } else {
      return e;
    }
  }
}

// The words after a quantity, with what belongs to a unit: cm^2, m/s.
Expr Parser::with_unit(Expr e) {
  std::string unit;
  while (true) {
    if (look().kind == Token::kText && !is_join()) {
      unit += (unit.empty() ? "" : " ") + look().text;
      ++at_;
    } else if (!unit.empty() && is("^")) {
      ++at_;
      const bool braces = take("{");
      if (look().kind == Token::kNumber) unit += "^" + look().text;
      ++at_;
      if (braces) expect("}");
    } else if (!unit.empty() && is("/") && look(1).kind == Token::kText) {
      unit += "/";
      ++at_;
    } else if (!unit.empty() && (is(".") || is("*"))) {
      ++at_;
    } else {
      break;
    }
  }
  if (e.kind == Kind::kText) {  // words after words
    e.name += " " + unit;
    return e;
  }
  const std::string words = plain_words(unit);
  if (words == "degrees" || words == "degree") return node(Kind::kDegree, {std::move(e)});
  if (words == "percent") return node(Kind::kPercent, {std::move(e)});
  if (words == "radians" || words == "rad") return e;
  return node(Kind::kUnit, {std::move(e)}, unit);
}

bool Parser::starts_factor() const {
  const Token& t = look();
  if (t.kind == Token::kNumber || t.kind == Token::kBased || t.kind == Token::kLetter) return true;
  if (t.kind == Token::kCommand) {
    return t.text != "over" && t.text != "choose" && t.text != "rfloor" && t.text != "rceil" &&
           t.text != "pmod" && t.text != "bmod" && t.text != "mod" && !t.text.starts_with("end{");
  }
  if (t.kind != Token::kSymbol) return false;
  return t.text == "(" || t.text == "{" || t.text == "[" || t.text == "\\$" ||
         (t.text == "|" && bars_ == 0 && !in_set_);
}

Expr Parser::product() {
  Expr e = factor();
  while (true) {
    if (is("*")) {
      ++at_;
      e = times(std::move(e), signed_factor());
    } else if (is("/")) {
      ++at_;
      Expr below = signed_factor();
      while (starts_factor() && look().kind != Token::kNumber && !is("{")) {
        ambiguous_.tight = true;
        if (!options_.tight) break;
        below = times(std::move(below), factor());
      }
      e = nested(node(Kind::kQuotient, {std::move(e), std::move(below)}));
    } else if (is_command("pmod") || is_command("bmod") || is_command("mod")) {
      ++at_;
      Expr modulus = factor();
      e = nested(node(Kind::kCall, {std::move(e), std::move(modulus)}, "mod"));
    } else if (starts_factor()) {
      // "2 3" is no product.
      const bool digits = look().kind == Token::kNumber && at_ > 0;
      if (digits && tokens_[at_ - 1].kind == Token::kNumber) throw Unreadable();
      e = times(std::move(e), factor());
    } else {
      return e;
    }
  }
}

Expr Parser::signed_factor() {
  bool negative = false;
  while (is("+") || is("-")) {
    negative = negative != is("-");
    ++at_;
  }
  Expr e = factor();
  return negative ? node(Kind::kNegative, {std::move(e)}) : e;
}

Expr times(Expr left, Expr right) {
  if (left.kind == Kind::kProduct) {
    left.args.push_back(std::move(right));
    return left;
  }
  return node(Kind::kProduct, {std::move(left), std::move(right)});
}

namespace {

std::optional<Expr> read(std::string_view text, const Options& options, Ambiguous& ambiguous) {
  try {
    return Parser(lex(text, options.lex, ambiguous.thousands), options, ambiguous).answer();
  } catch (const Unreadable&) {
    return std::nullopt;
  }
}

}  // namespace

std::vector<Expr> parse(std::string_view cleaned) {
  std::vector<Expr> readings;
  Ambiguous ambiguous;
  const auto add = [&readings, &cleaned](const Options& options, Ambiguous& found) {
    if (auto e = read(cleaned, options, found)) readings.push_back(std::move(*e));
  };
  const Options usual;
  add(usual, ambiguous);
  Ambiguous ignored;
  if (ambiguous.thousands) {
    Options options;
    options.lex.thousands = false;
    add(options, ignored);
  }
  if (ambiguous.tight) {
    Options options;
    options.tight = true;
    add(options, ignored);
  }
  if (ambiguous.functions) {
    Options options;
    options.functions = false;
    add(options, ignored);
  }
  return readings;
}

}  // namespace qad::score::math
