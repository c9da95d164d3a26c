// Recursive descent with jinja2's own precedences: or, and, not, comparison, + -, ~, * / // %, **,
// unary, postfix, filters and tests.
#include "text/jinja_parser.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>

#include "text/jinja_lexer.h"

namespace qad::text::jinja {
namespace {

constexpr int kMaxNesting = 100;    // of brackets and blocks: recursion of the parser
constexpr int kMaxExprDepth = 400;  // of the tree: long chains a + b + ... lean to the left

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(lex(source)) {}

  Body run() {
    std::string ended_by;
    return body({}, ended_by);
  }

 private:
  struct Nest {  // counts recursion
    explicit Nest(Parser& p) : parser(p) {
      if (++p.nesting_ > kMaxNesting)
        p.raise(fmt::format("nested deeper than {} levels", kMaxNesting));
    }
    ~Nest() { --parser.nesting_; }
    Parser& parser;
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

  // Statements up to one of `ends`, which is consumed up to its name.
  Body body(std::initializer_list<std::string_view> ends, std::string& ended_by) {
    const Nest nest(*this);
    Body out;
    for (;;) {
      if (now().kind == Token::kEof) {
        if (ends.size() == 0) return out;
        raise(fmt::format("expected {{% {} %}} before the end of the template", *(ends.end() - 1)));
      }
      if (now().kind == Token::kText) {
        Stmt text;
        text.kind = Stmt::kText;
        text.line = now().line;
        text.text = now().text;
        out.push_back(std::move(text));
        ++at_;
      } else if (is(Token::kBegin, "{{")) {
        Stmt print;
        print.kind = Stmt::kPrint;
        print.line = now().line;
        ++at_;
        print.expr = tuple_or_expression();
        expect_end();
        out.push_back(std::move(print));
      } else {
        ++at_;
        const int line = now().line;
        ended_by = name();
        if (std::find(ends.begin(), ends.end(), ended_by) != ends.end()) return out;
        out.push_back(statement(ended_by));
        out.back().line = line;
      }
    }
  }
  Body body_until(std::string_view end) {
    std::string ended_by;
    expect_end();
    Body out = body({end}, ended_by);
    expect_end();
    return out;
  }

  Stmt statement(const std::string& tag) {
    Stmt s;
    if (tag == "if") {
      s.kind = Stmt::kIf;
      parse_if(s);
    } else if (tag == "for") {
      s.kind = Stmt::kFor;
      parse_for(s);
    } else if (tag == "set") {
      parse_set(s);
    } else if (tag == "macro") {
      s.kind = Stmt::kMacro;
      s.text = name();
      parameters(s);
      const int outer_loops = std::exchange(loops_, 0);
      s.body = body_until("endmacro");
      loops_ = outer_loops;
    } else if (tag == "call") {
      s.kind = Stmt::kCall;
      if (op("(")) parameters(s);
      s.expr = expression();
      if (s.expr->kind != Expr::kCall) raise("{% call %} needs a call");
      s.body = body_until("endcall");
    } else if (tag == "filter") {
      s.kind = Stmt::kFilter;
      s.expr = filters(nullptr, true);
      s.body = body_until("endfilter");
    } else if (tag == "generation") {
      s.kind = Stmt::kGeneration;
      s.body = body_until("endgeneration");
    } else if (tag == "with") {
      s.kind = Stmt::kWith;
      while (now().kind != Token::kEnd) {
        if (!s.parameters.empty()) expect_op(",");
        std::string variable = name();
        expect_op("=");
        s.parameters.emplace_back(std::move(variable), expression());
      }
      s.body = body_until("endwith");
    } else if (tag == "break" || tag == "continue") {
      s.kind = tag == "break" ? Stmt::kBreak : Stmt::kContinue;
      if (loops_ == 0) raise(fmt::format("{{% {} %}} outside a loop", tag));
      expect_end();
    } else if (tag.starts_with("end") || tag == "else" || tag == "elif") {
      raise(fmt::format("unexpected {{% {} %}}", tag));
    } else {
      raise(fmt::format("{{% {} %}} is not supported", tag));
    }
    return s;
  }

  void parse_if(Stmt& s) {
    for (std::string ended_by = "if"; ended_by != "endif";) {
      if (ended_by == "else") {
        expect_end();
        s.branches.emplace_back(nullptr, body({"endif"}, ended_by));
      } else {
        ExprPtr condition = tuple_or_expression(false);
        expect_end();
        s.branches.emplace_back(std::move(condition), body({"elif", "else", "endif"}, ended_by));
      }
    }
    expect_end();
  }

  void parse_for(Stmt& s) {
    s.target = target(false);
    if (!skip_word("in")) raise(fmt::format("expected 'in', found '{}'", now().text));
    s.expr = tuple_or_expression(false);
    if (skip_word("if")) s.condition = expression();
    if (word("recursive")) raise("recursive loops are not supported");
    expect_end();
    std::string ended_by;
    ++loops_;
    s.body = body({"else", "endfor"}, ended_by);
    --loops_;
    if (ended_by == "else") {
      expect_end();
      s.else_body = body({"endfor"}, ended_by);
    }
    expect_end();
  }

  void parse_set(Stmt& s) {
    s.target = target(true);
    if (skip_op("=")) {
      s.kind = Stmt::kSet;
      s.expr = tuple_or_expression();
      expect_end();
    } else {
      s.kind = Stmt::kSetBlock;
      if (op("|")) s.expr = filters(nullptr, false);
      s.body = body_until("endset");
    }
  }

  // a name, names separated by commas (a tuple), or namespace.attribute
  ExprPtr target(bool attributes) {
    const Nest nest(*this);
    auto one = [&]() -> ExprPtr {
      if (skip_op("(")) {
        ExprPtr inner = target(attributes);
        expect_op(")");
        return inner;
      }
      auto e = make(Expr::kName);
      e->name = name();
      if (constant_name(e->name)) raise(fmt::format("cannot assign to '{}'", e->name));
      if (!attributes || !skip_op(".")) return e;
      auto attribute = make(Expr::kAttribute, name());
      add(*attribute, std::move(e));
      return attribute;
    };
    ExprPtr first = one();
    if (!op(",")) return first;
    auto tuple = make(Expr::kTuple);
    add(*tuple, std::move(first));
    while (skip_op(",")) {
      if (word("in") || op("=") || op(")")) break;
      add(*tuple, one());
    }
    return tuple;
  }

  void parameters(Stmt& s) {
    expect_op("(");
    while (!skip_op(")")) {
      if (!s.parameters.empty()) {
        expect_op(",");
        if (skip_op(")")) break;
      }
      std::string parameter = name();
      ExprPtr fallback = skip_op("=") ? expression() : nullptr;
      if (!fallback && !s.parameters.empty() && s.parameters.back().second)
        raise("a parameter without default after one with default");
      s.parameters.emplace_back(std::move(parameter), std::move(fallback));
    }
  }

  static bool constant_name(std::string_view n) {
    return n == "true" || n == "false" || n == "none" || n == "True" || n == "False" || n == "None";
  }

  bool tuple_ends() const {
    return now().kind == Token::kEnd || now().kind == Token::kEof || op(")") || word("in") ||
           word("if") || word("recursive");
  }
  ExprPtr tuple_or_expression(bool conditional = true) {
    ExprPtr first = conditional ? expression() : disjunction();
    if (!op(",")) return first;
    auto tuple = make(Expr::kTuple);
    add(*tuple, std::move(first));
    while (skip_op(",") && !tuple_ends()) add(*tuple, conditional ? expression() : disjunction());
    return tuple;
  }

  ExprPtr expression() {
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
  ExprPtr disjunction() {
    const Nest nest(*this);
    ExprPtr left = conjunction();
    while (skip_word("or")) left = binary(Expr::kOr, "", std::move(left), conjunction());
    return left;
  }
  ExprPtr conjunction() {
    ExprPtr left = negation();
    while (skip_word("and")) left = binary(Expr::kAnd, "", std::move(left), negation());
    return left;
  }
  ExprPtr negation() {
    const Nest nest(*this);
    if (!word("not")) return comparison();
    auto e = make(Expr::kUnary, "not");
    ++at_;
    add(*e, negation());
    return e;
  }
  ExprPtr comparison() {
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
  ExprPtr sum() {
    ExprPtr left = concatenation();
    while (op("+") || op("-")) {
      std::string oper = tokens_[at_++].text;
      left = binary(Expr::kBinary, std::move(oper), std::move(left), concatenation());
    }
    return left;
  }
  ExprPtr concatenation() {
    ExprPtr first = product();
    if (!op("~")) return first;
    auto e = make(Expr::kConcat);
    add(*e, std::move(first));
    while (skip_op("~")) add(*e, product());
    return e;
  }
  ExprPtr product() {
    ExprPtr left = power();
    while (op("*") || op("/") || op("//") || op("%")) {
      std::string oper = tokens_[at_++].text;
      left = binary(Expr::kBinary, std::move(oper), std::move(left), power());
    }
    return left;
  }
  ExprPtr power() {
    ExprPtr left = unary(true);
    while (skip_op("**")) left = binary(Expr::kBinary, "**", std::move(left), unary(true));
    return left;
  }
  ExprPtr unary(bool with_filters) {
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

  ExprPtr primary() {
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
        e->value = std::stod(token.text);
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
  ExprPtr parenthesis() {  // after "("
    if (skip_op(")")) return make(Expr::kTuple);
    ExprPtr e = tuple_or_expression();
    expect_op(")");
    return e;
  }

  ExprPtr postfix(ExprPtr e) {
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
  ExprPtr subscript(ExprPtr e) {  // after "["
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
  // `callee` becomes children[0]; arguments follow. now() is "(".
  ExprPtr call(Expr::Kind kind, std::string text, ExprPtr callee) {
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

  // `start_inline`: the first filter has no bar ({% filter upper %}).
  ExprPtr filters(ExprPtr e, bool start_inline) {
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
  ExprPtr test(ExprPtr e) {
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

  const std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int nesting_ = 0, loops_ = 0;
};

}  // namespace

Body parse(std::string_view source) {
  return Parser(source).run();
}

}  // namespace qad::text::jinja
