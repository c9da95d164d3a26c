// Python's operators, subscripts and attribute look-up.
#include <algorithm>
#include <cmath>

#include "text/jinja_eval.h"
#include "text/jinja_text.h"

namespace qad::text::jinja {
namespace {

[[noreturn]] void overflow(Budget& budget) {
  budget.raise("integer result beyond 64 bits");
}

std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
  return a / b - ((a % b != 0) && ((a < 0) != (b < 0)));
}

Value integer_power(Budget& budget, std::int64_t base, std::int64_t exponent) {
  if (exponent < 0) return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  std::int64_t result = 1;
  for (; exponent > 0; --exponent) {
    if (base == 0 || base == 1) return base;
    if (base == -1) return exponent % 2 ? -result : result;
    if (__builtin_mul_overflow(result, base, &result)) overflow(budget);
  }
  return result;
}

Value integers(Budget& budget, const std::string& op, std::int64_t a, std::int64_t b) {
  std::int64_t r = 0;
  if (op == "**") return integer_power(budget, a, b);
  if (op == "+" || op == "-" || op == "*") {
    const bool over = op == "+"   ? __builtin_add_overflow(a, b, &r)
                      : op == "-" ? __builtin_sub_overflow(a, b, &r)
                                  : __builtin_mul_overflow(a, b, &r);
    if (over) overflow(budget);
    return r;
  }
  if (b == 0) budget.raise("division by zero");
  if (op == "/") return static_cast<double>(a) / static_cast<double>(b);
  if (b == -1) {  // INT64_MIN / -1 traps
    if (op == "%") return std::int64_t{0};
    return integers(budget, "-", 0, a);
  }
  if (op == "//") return floor_divide(a, b);
  return a - floor_divide(a, b) * b;
}

Value reals(Budget& budget, const std::string& op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") return std::pow(a, b);
  if (b == 0) budget.raise("division by zero");
  if (op == "/") return a / b;
  double modulo = std::fmod(a, b);
  if (op == "%") {
    if (modulo == 0) return std::copysign(0.0, b);
    return (modulo < 0) != (b < 0) ? modulo + b : modulo;
  }
  if (modulo != 0 && (modulo < 0) != (b < 0)) modulo += b;
  return std::round((a - modulo) / b);
}

Value repeat(Budget& budget, const Value& what, std::int64_t times) {
  const std::size_t n = times < 0 ? 0 : static_cast<std::size_t>(times);
  if (const auto* s = what.str()) {
    if (s->text.size() > 0 && n > kMaxOutput / s->text.size())
      budget.raise("text * {} is too long", times);
    budget.spend(s->text.size() * n / 16 + n);
    std::string out;
    for (std::size_t i = 0; i < n && !s->text.empty(); ++i) out += s->text;
    return Value(std::move(out), s->markup);
  }
  const auto& items = what.sequence()->items;
  if (items.size() > 0 && n > kMaxOutput / items.size())
    budget.raise("list * {} is too long", times);
  budget.spend(items.size() * n + 1);
  std::vector<Value> out;
  for (std::size_t i = 0; i < n && !items.empty(); ++i)
    out.insert(out.end(), items.begin(), items.end());
  return make_sequence(budget, std::move(out), what.sequence()->kind);
}

bool repeatable(const Value& v) {
  return v.str() || (v.sequence() && v.sequence()->kind <= Sequence::kTuple);
}

// Index of a sequence of n items, Python style; n or more when out of range.
std::size_t position(std::int64_t i, std::size_t n) {
  if (i < 0) i += static_cast<std::int64_t>(n);
  return i < 0 ? n : static_cast<std::size_t>(i);
}

Value loop_attribute(Interpreter& in, const Value& object, const std::string& name) {
  const Loop& loop = *object.loop();
  const auto& items = loop.sequence->items;
  const auto i = static_cast<std::int64_t>(loop.index), n = static_cast<std::int64_t>(items.size());
  if (name == "index") return i + 1;
  if (name == "index0") return i;
  if (name == "revindex") return n - i;
  if (name == "revindex0") return n - i - 1;
  if (name == "first") return i == 0;
  if (name == "last") return i + 1 == n;
  if (name == "length") return n;
  if (name == "depth")
    return std::int64_t{1};  // only recursive loops, which we don't have, count deeper
  if (name == "depth0") return std::int64_t{0};
  if (name == "previtem")
    return i > 0 ? items[loop.index - 1] : undefined("there is no previous item");
  if (name == "nextitem")
    return i + 1 < n ? items[loop.index + 1] : undefined("there is no next item");
  const auto state = std::get<std::shared_ptr<Loop>>(object);
  if (name == "cycle") {
    return std::make_shared<const Callable>(
        Callable{name,
                 [state](Interpreter& inner, const Args& args) {
                   if (args.positional.empty()) inner.budget.raise("loop.cycle without items");
                   return args.positional[state->index % args.positional.size()];
                 },
                 loop.sequence->depth + 2});
  }
  if (name == "changed") {
    return std::make_shared<const Callable>(Callable{
        name,
        [state](Interpreter& inner, const Args& args) -> Value {
          bool same = state->last_changed && state->last_changed->size() == args.positional.size();
          for (std::size_t k = 0; same && k < args.positional.size(); ++k)
            same = equal(inner.budget, args.positional[k], (*state->last_changed)[k]);
          for (const Value& v : args.positional) {
            if (!v.str() && !v.number() && !v.none() && !v.undefined())
              inner.budget.raise("loop.changed of a {} is not supported", type_name(v));
          }
          if (!same) state->last_changed = args.positional;
          return !same;
        },
        loop.sequence->depth + 2});
  }
  in.budget.raise("loop.{} is not supported", name);
}

}  // namespace

std::int64_t to_int(Budget& budget, std::string_view what, const Value& v) {
  const auto i = v.as_int();
  if (!i) budget.raise("{}: expected an integer, found {}", what, type_name(v));
  return *i;
}

Value binary(Budget& budget, const std::string& op, const Value& a, const Value& b) {
  if (a.undefined() || b.undefined()) {
    const auto& hint = std::get<Undefined>(a.undefined() ? a : b).hint;
    budget.raise("{} (operand of {})", hint ? *hint : "a value is undefined", op);
  }
  if (const auto x = a.as_int(), y = b.as_int(); x && y) return integers(budget, op, *x, *y);
  if (const auto x = a.as_double(), y = b.as_double(); x && y) return reals(budget, op, *x, *y);
  if (op == "+") {
    if (const auto* x = a.str(), *y = b.str(); x && y) {
      budget.spend((x->text.size() + y->text.size()) / 16 + 1);
      const bool markup = x->markup || y->markup;
      const auto part = [&](const Str& s) {
        return markup && !s.markup ? html_escape(s.text) : s.text;
      };
      return Value(part(*x) + part(*y), markup);
    }
    const auto *x = a.sequence(), *y = b.sequence();
    if (x && y && x->kind == y->kind && x->kind <= Sequence::kTuple) {
      std::vector<Value> items = x->items;
      items.insert(items.end(), y->items.begin(), y->items.end());
      return make_sequence(budget, std::move(items), x->kind);
    }
  }
  if (op == "*" && repeatable(a) && b.as_int()) return repeat(budget, a, *b.as_int());
  if (op == "*" && repeatable(b) && a.as_int()) return repeat(budget, b, *a.as_int());
  if (op == "%" && a.str()) return Value(percent_format(budget, a.str()->text, b), a.str()->markup);
  budget.raise("unsupported operands of {}: '{}' and '{}'", op, type_name(a), type_name(b));
}

bool contains(Budget& budget, const Value& container, const Value& item) {
  if (const auto* s = container.str()) {
    if (!item.str())
      budget.raise("'in <string>' needs a string on its left, found {}", type_name(item));
    budget.spend(s->text.size() / 64 + 1);
    return s->text.find(item.str()->text) != std::string::npos;
  }
  if (const auto* d = container.dict()) return find(budget, *d, item) != nullptr;
  if (container.space() || container.loop() || container.callable() || container.none() ||
      container.number())
    budget.raise("argument of type '{}' is not iterable", type_name(container));
  const auto items = iterate(budget, container);
  return std::any_of(items->items.begin(), items->items.end(),
                     [&](const Value& v) { return equal(budget, v, item); });
}

Value attribute(Interpreter& in, const Value& object, const std::string& name) {
  Budget& budget = in.budget;
  budget.spend(1);
  if (object.undefined()) {
    const auto& hint = std::get<Undefined>(object).hint;
    budget.raise("{} (looking for .{})", hint ? *hint : "a value is undefined", name);
  }
  if (object.loop()) return loop_attribute(in, object, name);
  if (const auto* space = object.space()) {
    for (const auto& [key, value] : space->items) {
      if (key == name) return value;
    }
    return undefined(fmt::format("namespace has no attribute '{}'", name));
  }
  if (const auto* c = object.callable()) {
    if (c->is_macro && name == "name") return Value(c->name);
    budget.raise("attribute '{}' of '{}' is not supported", name, c->name);
  }
  if (Value bound = method(in, object, name); !bound.undefined()) return bound;
  if (const auto* d = object.dict()) {
    if (const Value* v = find(budget, *d, Value(name))) return *v;
  }
  return undefined(fmt::format("'{} object' has no attribute '{}'", type_name(object), name));
}

Value subscript(Interpreter& in, const Value& object, const Value& key) {
  Budget& budget = in.budget;
  budget.spend(1);
  if (object.undefined()) return attribute(in, object, to_str(budget, key));  // raises
  if (const auto* d = object.dict()) {
    if (const Value* v = find(budget, *d, key)) return *v;
  }
  if (const auto i = key.as_int()) {
    if (const auto* s = object.sequence(); s && s->kind <= Sequence::kRange) {
      const std::size_t at = position(*i, s->items.size());
      if (at < s->items.size()) return s->items[at];
    }
    if (const auto* s = object.str()) {
      budget.spend(s->text.size() / 16);
      const auto parts = code_points(s->text);
      const std::size_t at = position(*i, parts.size());
      if (at < parts.size()) return Value(std::string(parts[at]), s->markup);
    }
  }
  if (key.str()) return attribute(in, object, key.str()->text);
  return undefined(
      fmt::format("'{} object' has no element {}", type_name(object), repr(budget, key)));
}

Value slice(Budget& budget, const Value& object, const Value& start, const Value& stop,
            const Value& step) {
  const auto* s = object.sequence();
  if (!object.str() && !(s && s->kind <= Sequence::kRange)) {
    if (object.undefined()) budget.raise("slice of an undefined value");
    return undefined(fmt::format("'{} object' cannot be sliced", type_name(object)));
  }
  std::vector<std::string_view> parts;
  if (object.str()) parts = code_points(object.str()->text);
  const auto n = static_cast<std::int64_t>(s ? s->items.size() : parts.size());
  budget.spend(static_cast<std::size_t>(n) / 4 + 1);
  const std::int64_t stride = step.none() ? 1 : to_int(budget, "slice step", step);
  if (stride == 0) budget.raise("slice step cannot be zero");
  const auto bound = [&](const Value& v, std::int64_t fallback) {
    if (v.none()) return fallback;
    std::int64_t i = to_int(budget, "slice index", v);
    if (i < 0) i = i < -n ? -1 - n : i + n;
    return stride > 0 ? std::clamp<std::int64_t>(i, 0, n) : std::clamp<std::int64_t>(i, -1, n - 1);
  };
  const std::int64_t from = bound(start, stride > 0 ? 0 : n - 1),
                     to = bound(stop, stride > 0 ? n : -1);
  std::string text;
  std::vector<Value> items;
  const std::int64_t distance = stride > 0 ? to - from : from - to;
  const std::uint64_t width =
      stride > 0 ? static_cast<std::uint64_t>(stride) : 0 - static_cast<std::uint64_t>(stride);
  const std::uint64_t count =
      distance <= 0 ? 0 : (static_cast<std::uint64_t>(distance) - 1) / width + 1;
  for (std::uint64_t k = 0; k < count; ++k) {
    const auto i = static_cast<std::size_t>(from + static_cast<std::int64_t>(k) * stride);
    if (s)
      items.push_back(s->items[i]);
    else
      text += parts[i];
  }
  if (s) return make_sequence(budget, std::move(items), s->kind);
  return Value(std::move(text), object.str()->markup);
}

}  // namespace qad::text::jinja
