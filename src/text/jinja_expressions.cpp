// Recursive descent with jinja2's own precedences: or, and, not, comparison, + -, ~, * / // %, **,
// unary, postfix, filters and tests.
#include "text/jinja_expressions.h"

#include <charconv>
#include <cstdlib>

namespace qad::text::jinja {

bool ExpressionParser::tuple_ends() const {
  return now().kind == Token::kEnd || now().kind == Token::kEof || op(")") || word("in") ||
         word("if") || word("recursive");
}

ExprPtr ExpressionParser::tuple_or_expression(bool conditional) {
  ExprPtr first = conditional ? expression() : disjunction();
  if (!op(",")) return first;
  auto tuple = make(Expr::kTuple);
  add(*tuple, std::move(first));
  while (skip_op(",") && !tuple_ends()) add(*tuple, conditional ? expression() : disjunction());
  return tuple;
}

ExprPtr ExpressionParser::expression() {
  const Nest nest(*this);
  ExprPtr value = disjunction();
  while (skip_word("if")) {
    auto e = make(Expr::kConditional);
    add(*e, disjunction());
    add(*e, std::move(value));
    add(*e, skip_word("else") ? expression() : nullptr);
    value = std::move(e);
  }
  return value;
}

ExprPtr ExpressionParser::disjunction() {
  const Nest nest(*this);
  ExprPtr left = conjunction();
  while (skip_word("or")) left = binary(Expr::kOr, "", std::move(left), conjunction());
  return left;
}

ExprPtr ExpressionParser::conjunction() {
  ExprPtr left = negation();
  while (skip_word("and")) left = binary(Expr::kAnd, "", std::move(left), negation());
  return left;
}

ExprPtr ExpressionParser::negation() {
  const Nest nest(*this);
  if (!word("not")) return comparison();
  auto e = make(Expr::kUnary, "not");
  ++at_;
  add(*e, negation());
  return e;
}

ExprPtr ExpressionParser::comparison() {
  ExprPtr first = sum();
  ExprPtr e;
  for (;;) {
    std::string oper;
    for (const std::string_view o : {"==", "!=", "<", "<=", ">", ">="}) {
      if (op(o)) oper = o;
    }
    if (word("in")) oper = "in";
    if (word("not") && next().kind == Token::kName && next().text == "in") {
      ++at_;
      oper = "not in";
    }
    if (oper.empty()) return e ? std::move(e) : std::move(first);
    ++at_;
    if (!e) {
      e = make(Expr::kCompare);
      add(*e, std::move(first));
    }
    e->operators.push_back(oper);
    add(*e, sum());
  }
}

ExprPtr ExpressionParser::sum() {
  ExprPtr left = concatenation();
  while (op("+") || op("-")) {
    std::string oper = tokens_[at_++].text;
    left = binary(Expr::kBinary, std::move(oper), std::move(left), concatenation());
  }
  return left;
}

ExprPtr ExpressionParser::concatenation() {
  ExprPtr first = product();
  if (!op("~")) return first;
  auto e = make(Expr::kConcat);
  add(*e, std::move(first));
  while (skip_op("~")) add(*e, product());
  return e;
}

ExprPtr ExpressionParser::product() {
  ExprPtr left = power();
  while (op("*") || op("/") || op("//") || op("%")) {
    std::string oper = tokens_[at_++].text;
    left = binary(Expr::kBinary, std::move(oper), std::move(left), power());
  }
  return left;
}

ExprPtr ExpressionParser::power() {
  ExprPtr left = unary(true);
  while (skip_op("**")) left = binary(Expr::kBinary, "**", std::move(left), unary(true));
  return left;
}

ExprPtr ExpressionParser::unary(bool with_filters) {
  const Nest nest(*this);
  ExprPtr e;
  if (op("-") || op("+")) {
    e = make(Expr::kUnary, now().text);
    ++at_;
    add(*e, unary(false));
  } else {
    e = primary();
  }
  e = postfix(std::move(e));
  return with_filters ? filters(std::move(e), false) : std::move(e);
}

ExprPtr ExpressionParser::primary() {
  auto e = make(Expr::kConstant);
  const Token& token = now();
  ++at_;
  switch (token.kind) {
    case Token::kName:
      if (!constant_name(token.text)) {
        e->kind = Expr::kName;
        e->name = token.text;
      } else if (token.text[0] == 'n' || token.text[0] == 'N') {
        e->value = nullptr;
      } else {
        e->value = token.text[0] == 't' || token.text[0] == 'T';
      }
      return e;
    case Token::kString: {
      std::string text = token.text;
      while (now().kind == Token::kString) text += tokens_[at_++].text;
      e->value = Value(std::move(text));
      return e;
    }
    case Token::kInteger: {
      std::int64_t value = 0;
      const auto result =
          std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      if (result.ec != std::errc()) raise(fmt::format("integer {} beyond 64 bits", token.text));
      e->value = value;
      return e;
    }
    case Token::kFloat:
      e->value = std::strtod(token.text.c_str(), nullptr);  // too large is infinite, as in Python
      return e;
    case Token::kOperator:
      if (token.text == "(") return parenthesis();
      if (token.text == "[") {
        e->kind = Expr::kList;
        while (!skip_op("]")) {
          if (!e->children.empty()) {
            expect_op(",");
            if (skip_op("]")) break;
          }
          add(*e, expression());
        }
        return e;
      }
      if (token.text == "{") {
        e->kind = Expr::kDict;
        while (!skip_op("}")) {
          if (!e->children.empty()) {
            expect_op(",");
            if (skip_op("}")) break;
          }
          add(*e, expression());
          expect_op(":");
          add(*e, expression());
        }
        return e;
      }
      [[fallthrough]];
    default:
      --at_;
      raise(fmt::format("expected an expression, found '{}'", token.text));
  }
}

ExprPtr ExpressionParser::parenthesis() {  // after "("
  if (skip_op(")")) return make(Expr::kTuple);
  ExprPtr e = tuple_or_expression();
  expect_op(")");
  return e;
}

ExprPtr ExpressionParser::postfix(ExprPtr e) {
  for (;;) {
    if (skip_op(".")) {
      if (now().kind == Token::kInteger) {
        e = binary(Expr::kSubscript, "", std::move(e), primary());
      } else {
        auto attribute = make(Expr::kAttribute, name());
        add(*attribute, std::move(e));
        e = std::move(attribute);
      }
    } else if (skip_op("[")) {
      e = subscript(std::move(e));
    } else if (op("(")) {
      e = call(Expr::kCall, "", std::move(e));
    } else {
      return e;
    }
  }
}

ExprPtr ExpressionParser::subscript(ExprPtr e) {  // after "["
  ExprPtr parts[3];
  bool slice = false;
  for (int i = 0; i < 3; ++i) {
    if (!op(":") && !op("]")) parts[i] = expression();
    if (i == 2 || !skip_op(":")) break;
    slice = true;
  }
  if (op(",")) raise("a tuple as subscript is not supported");
  expect_op("]");
  if (!slice && !parts[0]) raise("empty subscript");
  auto out = make(slice ? Expr::kSlice : Expr::kSubscript);
  add(*out, std::move(e));
  for (int i = 0; i < (slice ? 3 : 1); ++i) add(*out, std::move(parts[i]));
  return out;
}

ExprPtr ExpressionParser::call(Expr::Kind kind, std::string text, ExprPtr callee) {
  auto e = make(kind, std::move(text));
  add(*e, std::move(callee));
  if (!skip_op("(")) return e;
  for (bool first = true; !skip_op(")"); first = false) {
    if (!first) {
      expect_op(",");
      if (skip_op(")")) break;
    }
    if (op("*") || op("**")) raise("* and ** in a call are not supported");
    if (now().kind == Token::kName && next().kind == Token::kOperator && next().text == "=") {
      std::string key = name();
      ++at_;
      ExprPtr value = expression();
      e->depth = std::max(e->depth, value->depth + 1);
      e->named.emplace_back(std::move(key), std::move(value));
    } else {
      if (!e->named.empty()) raise("a positional argument after a named one");
      add(*e, expression());
    }
  }
  return e;
}

ExprPtr ExpressionParser::filters(ExprPtr e, bool start_inline) {
  for (;;) {
    if (std::exchange(start_inline, false) || skip_op("|")) {
      std::string filter = name();
      e = call(Expr::kFilter, std::move(filter), std::move(e));
    } else if (e && skip_word("is")) {
      e = test(std::move(e));
    } else if (e && op("(")) {
      e = call(Expr::kCall, "", std::move(e));
    } else {
      return e;
    }
  }
}

ExprPtr ExpressionParser::test(ExprPtr e) {
  const bool negated = skip_word("not");
  std::string text = name();
  ExprPtr out;
  const Token::Kind kind = now().kind;
  if (op("(")) {
    out = call(Expr::kTest, std::move(text), std::move(e));
  } else {
    out = make(Expr::kTest, std::move(text));
    add(*out, std::move(e));
    const bool word_argument =
        kind == Token::kName && !word("else") && !word("or") && !word("and") && !word("if");
    if (word("is")) raise("tests cannot be chained with is");
    if (word_argument || kind == Token::kString || kind == Token::kInteger ||
        kind == Token::kFloat || op("[") || op("{"))
      add(*out, postfix(primary()));
  }
  if (!negated) return out;
  auto negation = make(Expr::kUnary, "not");
  add(*negation, std::move(out));
  return negation;
}

}  // namespace qad::text::jinja
