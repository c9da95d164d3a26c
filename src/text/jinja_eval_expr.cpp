// Expressions: a switch over the tree; Python's operators and library are in their own files.
#include "text/jinja_eval.h"

namespace qad::text::jinja {

std::string_view text_of(const Value& v, std::string& storage, Budget& budget) {
  if (const auto* s = v.str()) return s->text;
  return storage = to_str(budget, v);
}

Value Interpreter::eval(const Expr& e) {
  const Deeper deeper(*this);
  budget.line = e.line;
  const auto child = [&](std::size_t i) { return eval(*e.children[i]); };
  const auto part = [&](std::size_t i) {
    return e.children[i] ? eval(*e.children[i]) : Value(nullptr);
  };
  switch (e.kind) {
    case Expr::kConstant:
      return e.value;
    case Expr::kName:
      return lookup(e.name);
    case Expr::kList:
    case Expr::kTuple: {
      std::vector<Value> items;
      for (const auto& c : e.children) items.push_back(eval(*c));
      return make_sequence(budget, std::move(items),
                           e.kind == Expr::kTuple ? Sequence::kTuple : Sequence::kList);
    }
    case Expr::kDict: {
      std::vector<std::pair<Value, Value>> items;
      for (std::size_t i = 0; i < e.children.size(); i += 2) {
        Value key = child(i);
        items.emplace_back(std::move(key), child(i + 1));
      }
      return make_dict(budget, std::move(items));
    }
    case Expr::kAttribute:
      return attribute(*this, child(0), e.name);
    case Expr::kSubscript: {
      const Value object = child(0);
      return subscript(*this, object, child(1));
    }
    case Expr::kSlice: {
      const Value object = child(0), start = part(1), stop = part(2);
      return slice(budget, object, start, stop, part(3));
    }
    case Expr::kCall:
      return eval_call(e);
    case Expr::kFilter:
      return eval_filter(e, child(0));
    case Expr::kTest: {
      const Value input = child(0);
      return apply_test(*this, e.name, input, eval_args(e));
    }
    case Expr::kUnary: {
      const Value v = child(0);
      if (e.name == "not") return !truth(v);
      if (const auto* d = v.real()) return e.name == "-" ? -*d : *d;
      return binary(budget, e.name, Value(std::int64_t{0}), v);
    }
    case Expr::kBinary: {
      const Value left = child(0);
      return binary(budget, e.name, left, child(1));
    }
    case Expr::kConcat: {
      std::string out, storage;
      for (const auto& c : e.children) {
        const Value v = eval(*c);
        out += text_of(v, storage, budget);
        budget.spend(out.size() / 16);
      }
      return Value(std::move(out));
    }
    case Expr::kCompare:
      return eval_compare(e);
    case Expr::kAnd:
    case Expr::kOr: {
      Value left = child(0);
      return truth(left) == (e.kind == Expr::kOr) ? left : child(1);
    }
    case Expr::kConditional:
      if (truth(child(0))) return child(1);
      return e.children[2]
                 ? child(2)
                 : undefined("the inline if-expression evaluated to false and has no else");
  }
  return {};
}

Value Interpreter::eval_compare(const Expr& e) {
  Value left = eval(*e.children[0]);
  for (std::size_t i = 0; i < e.operators.size(); ++i) {
    Value right = eval(*e.children[i + 1]);
    const std::string& op = e.operators[i];
    bool result = false;
    if (op == "==" || op == "!=")
      result = equal(budget, left, right) == (op == "==");
    else if (op == "in" || op == "not in")
      result = contains(budget, right, left) == (op == "in");
    else {
      const int order = compare(budget, left, right);
      result = op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
    }
    if (!result) return false;
    left = std::move(right);
  }
  return true;
}

Args Interpreter::eval_args(const Expr& e) {
  Args args;
  for (std::size_t i = 1; i < e.children.size(); ++i)
    args.positional.push_back(eval(*e.children[i]));
  for (const auto& [key, value] : e.named) args.named.emplace_back(key, eval(*value));
  return args;
}

Value Interpreter::eval_call(const Expr& e) {
  const Value callee = eval(*e.children[0]);
  const Args args = eval_args(e);
  budget.line = e.line;
  return call(callee, args);
}

// {% filter a | b %}: children[0] of b is a, and that of a is null.
Value Interpreter::filter_block(const Expr& e, const Value& text) {
  return eval_filter(e, e.children[0] ? filter_block(*e.children[0], text) : text);
}

Value Interpreter::eval_filter(const Expr& e, const Value& input) {
  const Deeper deeper(*this);
  const Args args = eval_args(e);
  budget.line = e.line;
  return apply_filter(*this, e.name, input, args);
}

}  // namespace qad::text::jinja
