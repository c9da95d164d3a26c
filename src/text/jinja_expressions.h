// The half of the parser that reads expressions, and its cursor over the tokens.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_lexer.h"
#include "text/jinja_parser.h"

namespace qad::text::jinja {

constexpr int kMaxNesting = 100;    // of brackets and blocks: recursion of the parser
constexpr int kMaxExprDepth = 400;  // of the tree: long chains a + b + ... lean to the left

class ExpressionParser {
 public:
  explicit ExpressionParser(std::string_view source) : tokens_(lex(source)) {}

 protected:
  struct Nest {  // counts recursion
    explicit Nest(ExpressionParser& p) : parser(p) {
      if (++p.nesting_ > kMaxNesting)
        p.raise(fmt::format("nested deeper than {} levels", kMaxNesting));
    }
    ~Nest() { --parser.nesting_; }
    ExpressionParser& parser;
  };

  const Token& now() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  [[noreturn]] void raise(std::string_view what) const {
    fail("chat_template", "line {}: {}", now().line, what);
  }
  bool is(Token::Kind kind, std::string_view text) const {
    return now().kind == kind && now().text == text;
  }
  bool op(std::string_view text) const { return is(Token::kOperator, text); }
  bool word(std::string_view text) const { return is(Token::kName, text); }
  bool skip(Token::Kind kind, std::string_view text) {
    if (!is(kind, text)) return false;
    ++at_;
    return true;
  }
  bool skip_op(std::string_view text) { return skip(Token::kOperator, text); }
  bool skip_word(std::string_view text) { return skip(Token::kName, text); }
  void expect_op(std::string_view text) {
    if (!skip_op(text)) raise(fmt::format("expected '{}', found '{}'", text, now().text));
  }
  void expect_end() {
    if (now().kind != Token::kEnd)
      raise(fmt::format("expected the end of the tag, found '{}'", now().text));
    ++at_;
  }
  std::string name() {
    if (now().kind != Token::kName) raise(fmt::format("expected a name, found '{}'", now().text));
    return tokens_[at_++].text;
  }

  ExprPtr make(Expr::Kind kind, std::string text = "") const {
    auto e = std::make_unique<Expr>();
    e->kind = kind;
    e->line = now().line;
    e->name = std::move(text);
    return e;
  }
  void add(Expr& parent, ExprPtr child) const {
    if (child) parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxExprDepth)
      raise(fmt::format("expression of more than {} levels", kMaxExprDepth));
    parent.children.push_back(std::move(child));
  }
  ExprPtr binary(Expr::Kind kind, std::string text, ExprPtr left, ExprPtr right) const {
    auto e = make(kind, std::move(text));
    add(*e, std::move(left));
    add(*e, std::move(right));
    return e;
  }

  static bool constant_name(std::string_view n) {
    return n == "true" || n == "false" || n == "none" || n == "True" || n == "False" || n == "None";
  }
  bool tuple_ends() const;
  ExprPtr tuple_or_expression(bool conditional = true);
  ExprPtr expression();
  ExprPtr disjunction();
  ExprPtr conjunction();
  ExprPtr negation();
  ExprPtr comparison();
  ExprPtr sum();
  ExprPtr concatenation();
  ExprPtr product();
  ExprPtr power();
  ExprPtr unary(bool with_filters);
  ExprPtr primary();
  ExprPtr parenthesis();  // after "("
  ExprPtr postfix(ExprPtr e);
  ExprPtr subscript(ExprPtr e);  // after "["
  // `callee` becomes children[0]; arguments follow. now() is "(".
  ExprPtr call(Expr::Kind kind, std::string text, ExprPtr callee);
  // `start_inline`: the first filter has no bar ({% filter upper %}).
  ExprPtr filters(ExprPtr e, bool start_inline);
  ExprPtr test(ExprPtr e);

  const std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace qad::text::jinja
