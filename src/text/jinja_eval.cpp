// Statements. Scopes follow jinja2: loops, macros, blocks open one, if does not.
#include "text/jinja_eval.h"

#include <algorithm>

#include "text/jinja_text.h"

namespace qad::text::jinja {
Interpreter::Interpreter(const Json& variables) : scope_(std::make_shared<Scope>()) {
  check(variables.is_object(), "chat_template", "expected the variables as a JSON object, found {}",
        variables.type_name());
  for (const auto& [key, value] : variables.items())
    scope_->variables.emplace_back(std::string_view(key), from_json(budget, value));
  scope_->outer = nullptr;
  auto body = std::make_shared<Scope>();
  body->outer = scope_;
  scope_ = std::move(body);
}

Interpreter::~Interpreter() {
  for (const auto& scope : closures_) scope->variables.clear();
  for (const auto& space : namespaces_) space->items.clear();
}

Rendered Interpreter::run(const Body& body) {
  exec(body);
  return {std::move(text_), std::move(generated_)};
}

void Interpreter::write(std::string_view text) {
  budget.spend(text.size() / 16);
  if (out_->size() + text.size() > kMaxOutput)
    budget.raise("more than {} bytes of output", kMaxOutput);
  out_->append(text);
}

Value Interpreter::lookup(const std::string& name) const {
  for (const Scope* s = scope_.get(); s; s = s->outer.get()) {
    for (const auto& [key, value] : s->variables) {
      if (key == name) return value;
    }
  }
  Value found = global(name);
  return found.undefined() ? undefined("'" + name + "' is undefined") : found;
}

void Interpreter::set(std::string_view name, Value value) {
  for (auto& [key, old] : scope_->variables) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  scope_->variables.emplace_back(name, std::move(value));
}

void Interpreter::assign(const Expr& target, Value value) {
  if (target.kind == Expr::kName) return set(target.name, std::move(value));
  if (target.kind == Expr::kAttribute) {
    const Value object = eval(*target.children[0]);
    Namespace* space = object.space();
    if (!space) budget.raise("cannot set attribute '{}': not a namespace", target.name);
    if (target.name.starts_with("_")) budget.raise("a namespace cannot hold '{}'", target.name);
    for (auto& [key, old] : space->items) {
      if (key == target.name) {
        old = std::move(value);
        return;
      }
    }
    space->items.emplace_back(target.name, std::move(value));
    return;
  }
  const auto items = iterate(budget, value);
  if (items->items.size() != target.children.size())
    budget.raise("expected {} values to unpack, found {}", target.children.size(),
                 items->items.size());
  for (std::size_t i = 0; i < items->items.size(); ++i)
    assign(*target.children[i], items->items[i]);
}

std::string Interpreter::capture(const Body& body, std::shared_ptr<Scope> scope) {
  std::string text;
  auto* const out = std::exchange(out_, &text);
  const auto outer = std::exchange(scope_, std::move(scope));
  exec(body);
  scope_ = outer;
  out_ = out;
  return text;
}

Value Interpreter::make_namespace(const Args& args) {
  budget.spend(100);
  auto space = std::make_shared<Namespace>();
  for (const Value& v : args.positional) {
    if (!v.dict()) budget.raise("namespace() takes a dictionary, found {}", type_name(v));
    for (const auto& [key, value] : v.dict()->items)
      space->items.emplace_back(to_str(budget, key), value);
  }
  for (const auto& [key, value] : args.named) {
    std::erase_if(space->items, [&key = key](const auto& item) { return item.first == key; });
    space->items.emplace_back(key, value);
  }
  for (const auto& [key, value] : space->items) {
    if (key.starts_with("_")) budget.raise("a namespace cannot hold '{}'", key);
  }
  namespaces_.push_back(space);
  return space;
}

Value Interpreter::macro(const Stmt& s, std::string name) {
  budget.spend(100);
  if (closures_.empty() || closures_.back() != scope_) closures_.push_back(scope_);
  const auto body = [&s, closure = std::weak_ptr<Scope>(scope_)](Interpreter& in,
                                                                 const Args& args) -> Value {
    const Deeper deeper(in);
    auto scope = std::make_shared<Scope>();
    scope->outer = closure.lock();
    if (args.positional.size() > s.parameters.size())
      in.budget.raise("macro '{}' takes not more than {} arguments", s.text, s.parameters.size());
    const auto caller_scope = std::exchange(in.scope_, scope);
    for (const auto& [key, value] : args.named) {
      const bool known =
          key == "caller" || std::any_of(s.parameters.begin(), s.parameters.end(),
                                         [&key = key](const auto& p) { return p.first == key; });
      if (!known) in.budget.raise("macro '{}' takes no keyword argument '{}'", s.text, key);
      if (key == "caller") in.set("caller", value);
    }
    for (std::size_t i = 0; i < s.parameters.size(); ++i) {
      const auto& [key, fallback] = s.parameters[i];
      const auto named = std::find_if(args.named.begin(), args.named.end(),
                                      [&key = key](const auto& a) { return a.first == key; });
      if (i < args.positional.size())
        in.set(key, args.positional[i]);
      else if (named != args.named.end())
        in.set(key, named->second);
      else
        in.set(key, fallback ? in.eval(*fallback)
                             : undefined("parameter '" + key + "' was not provided"));
    }
    in.scope_ = caller_scope;
    return Value(in.capture(s.body, std::move(scope)));
  };
  return std::make_shared<const Callable>(Callable{std::move(name), body, 0, true});
}

Value Interpreter::call(const Value& callee, const Args& args) {
  if (callee.undefined()) {
    const auto& hint = std::get<Undefined>(callee).hint;
    budget.raise("{}; it cannot be called", hint ? *hint : "a value is undefined");
  }
  if (!callee.callable()) budget.raise("'{}' object is not callable", type_name(callee));
  return callee.callable()->call(*this, args);
}

Interpreter::Flow Interpreter::exec(const Body& body) {
  for (const Stmt& s : body) {
    if (const Flow flow = exec(s); flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec(const Stmt& s) {
  const Deeper deeper(*this);
  budget.line = s.line;
  const auto inner = [this] {
    auto scope = std::make_shared<Scope>();
    scope->outer = scope_;
    return scope;
  };
  switch (s.kind) {
    case Stmt::kText:
      write(s.text);
      break;
    case Stmt::kPrint: {
      std::string storage;
      const Value v = eval(*s.expr);
      write(text_of(v, storage, budget));
      break;
    }
    case Stmt::kIf:
      for (const auto& [condition, body] : s.branches) {
        if (!condition || truth(eval(*condition))) return exec(body);
      }
      break;
    case Stmt::kFor:
      return exec_for(s);
    case Stmt::kSet:
      assign(*s.target, eval(*s.expr));
      break;
    case Stmt::kSetBlock: {
      Value text(capture(s.body, inner()));
      if (s.expr) text = filter_block(*s.expr, text);
      assign(*s.target, std::move(text));
      break;
    }
    case Stmt::kMacro:
      set(s.text, macro(s, s.text));
      break;
    case Stmt::kCall: {
      const Value callee = eval(*s.expr->children[0]);
      Args args = eval_args(*s.expr);
      args.named.emplace_back("caller", macro(s, "caller"));
      std::string storage;
      const Value v = call(callee, args);
      write(text_of(v, storage, budget));
      break;
    }
    case Stmt::kFilter: {
      std::string storage;
      const Value v = filter_block(*s.expr, Value(capture(s.body, inner())));
      write(text_of(v, storage, budget));
      break;
    }
    case Stmt::kGeneration: {
      // Inside a captured block Transformers counts from the text that is out already; so do we.
      const std::string text = capture(s.body, inner());
      generated_.emplace_back(text_.size(), text_.size() + text.size());
      write(text);
      break;
    }
    case Stmt::kWith: {
      auto scope = inner();
      for (const auto& [name, value] : s.parameters)
        scope->variables.emplace_back(name, eval(*value));
      const auto outer = std::exchange(scope_, std::move(scope));
      const Flow flow = exec(s.body);
      scope_ = outer;
      return flow;
    }
    case Stmt::kBreak:
      return Flow::kBreak;
    case Stmt::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_for(const Stmt& s) {
  const auto outer = scope_;
  const auto inside = [&] {
    auto scope = std::make_shared<Scope>();
    scope->outer = outer;
    scope_ = std::move(scope);
  };
  auto items = iterate(budget, eval(*s.expr));
  if (s.condition) {
    std::vector<Value> kept;
    for (const Value& item : items->items) {
      inside();
      assign(*s.target, item);
      if (truth(eval(*s.condition))) kept.push_back(item);
    }
    items = std::get<std::shared_ptr<const Sequence>>(make_sequence(budget, std::move(kept)));
  }
  Flow result = Flow::kNext;
  if (items->items.empty()) {
    inside();
    result = exec(s.else_body);
  }
  const auto loop = std::make_shared<Loop>(Loop{items, 0, {}});
  for (; loop->index < items->items.size(); ++loop->index) {
    inside();
    budget.spend(3);  // a scope costs more than a node
    scope_->variables.emplace_back("loop", loop);
    assign(*s.target, items->items[loop->index]);
    if (exec(s.body) == Flow::kBreak) break;
  }
  scope_ = outer;
  return result;
}

}  // namespace qad::text::jinja
