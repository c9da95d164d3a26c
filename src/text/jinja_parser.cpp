// The half of the parser that reads text and statements.
#include "text/jinja_parser.h"

#include <initializer_list>

#include "text/jinja_expressions.h"

namespace qad::text::jinja {
namespace {

class Parser : ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Body run() {
    std::string ended_by;
    return body({}, ended_by);
  }

 private:
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

  // A body rendered apart: the loop around it is out of reach of its break and continue.
  Body captured_until(std::string_view end) {
    const int outer_loops = std::exchange(loops_, 0);
    Body out = body_until(end);
    loops_ = outer_loops;
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
      s.body = captured_until("endmacro");
    } else if (tag == "call") {
      s.kind = Stmt::kCall;
      if (op("(")) parameters(s);
      s.expr = expression();
      if (s.expr->kind != Expr::kCall) raise("{% call %} needs a call");
      s.body = captured_until("endcall");
    } else if (tag == "filter") {
      s.kind = Stmt::kFilter;
      s.expr = filters(nullptr, true);
      s.body = captured_until("endfilter");
    } else if (tag == "generation") {
      s.kind = Stmt::kGeneration;
      s.body = captured_until("endgeneration");
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
      s.body = captured_until("endset");
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

  int loops_ = 0;  // around here, for break and continue
};

}  // namespace

Body parse(std::string_view source) {
  return Parser(source).run();
}

}  // namespace qad::text::jinja
