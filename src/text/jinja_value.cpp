// Truth, order, equality and printing of template values, as Python does them.
#include "text/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "text/jinja_text.h"

namespace qad::text::jinja {
namespace {

constexpr int kMaxDepth = 300;  // of lists in lists

int depth_of(const Value& v) {
  if (const auto* s = v.sequence()) return s->depth;
  if (const auto* d = v.dict()) return d->depth;
  if (const auto* l = v.loop()) return l->sequence->depth + 1;
  if (const auto* c = v.callable()) return c->depth;
  return 0;
}

int checked_depth(Budget& budget, int depth) {
  if (depth > kMaxDepth) budget.raise("values nested deeper than {} levels", kMaxDepth);
  return depth;
}

}  // namespace

std::optional<std::int64_t> Value::as_int() const {
  if (const auto* b = boolean()) return *b ? 1 : 0;
  if (const auto* i = integer()) return *i;
  return {};
}

std::optional<double> Value::as_double() const {
  if (const auto* d = real()) return *d;
  if (const auto i = as_int()) return static_cast<double>(*i);
  return {};
}

Value undefined(std::string hint) {
  return Undefined{std::make_shared<const std::string>(std::move(hint))};
}

Value make_sequence(Budget& budget, std::vector<Value> items, Sequence::Kind kind) {
  budget.spend(items.size() + 1);
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, depth_of(item));
  depth = checked_depth(budget, depth + 1);
  return std::make_shared<const Sequence>(Sequence{kind, std::move(items), depth});
}

Value make_dict(Budget& budget, std::vector<std::pair<Value, Value>> items) {
  Dict dict;
  int depth = 0;
  for (auto& [key, value] : items) {
    if (key.dict() || (key.sequence() && key.sequence()->kind == Sequence::kList))
      budget.raise("unhashable type: '{}'", type_name(key));
    depth = std::max({depth, depth_of(key), depth_of(value)});
    if (const Value* old = find(budget, dict, key)) {
      *const_cast<Value*>(old) = std::move(value);
    } else {
      dict.items.emplace_back(std::move(key), std::move(value));
    }
  }
  dict.depth = checked_depth(budget, depth + 1);
  return std::make_shared<const Dict>(std::move(dict));
}

Value from_json(Budget& budget, const Json& json) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_unsigned:
      if (json.get<std::uint64_t>() > INT64_MAX)
        budget.raise("integer beyond 64 bits in the variables");
      return json.get<std::int64_t>();
    case Json::value_t::number_integer:
      return json.get<std::int64_t>();
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string:
      return Value(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      std::vector<Value> items;
      for (const Json& item : json) items.push_back(from_json(budget, item));
      return make_sequence(budget, std::move(items));
    }
    case Json::value_t::object: {
      Dict dict;  // keys are distinct already
      int depth = 0;
      for (const auto& [key, value] : json.items()) {
        dict.items.emplace_back(Value(key), from_json(budget, value));
        depth = std::max(depth, depth_of(dict.items.back().second));
      }
      budget.spend(dict.items.size() + 1);
      dict.depth = checked_depth(budget, depth + 1);
      return std::make_shared<const Dict>(std::move(dict));
    }
    default:
      return nullptr;
  }
}

std::string type_name(const Value& v) {
  static const char* const kNames[] = {"Undefined", "NoneType",    "bool",    "int",
                                       "float",     "str",         "list",    "dict",
                                       "Namespace", "LoopContext", "function"};
  if (const auto* s = v.sequence()) {
    static const char* const kSequences[] = {"list", "tuple", "range", "dict view", "generator"};
    return kSequences[s->kind];
  }
  return kNames[v.index()];
}

bool truth(const Value& v) {
  if (v.undefined() || v.none()) return false;
  if (const auto d = v.as_double()) return *d != 0;
  if (const auto* s = v.str()) return !s->text.empty();
  if (const auto* s = v.sequence()) return s->kind == Sequence::kIterator || !s->items.empty();
  if (const auto* d = v.dict()) return !d->items.empty();
  return true;
}

bool equal(Budget& budget, const Value& a, const Value& b) {
  budget.spend(1);
  if (a.integer() && b.integer()) return *a.integer() == *b.integer();
  if (const auto x = a.as_double(), y = b.as_double(); x && y) return *x == *y;
  if (a.index() != b.index()) return false;
  if (a.undefined() || a.none()) return true;
  if (const auto* x = a.str(), *y = b.str(); x && y) {
    budget.spend(std::min(x->text.size(), y->text.size()) / 64);
    return x->text == y->text;
  }
  if (const auto* x = a.sequence(), *y = b.sequence(); x && y) {
    return x == y ||
           (x->kind == y->kind && x->kind < Sequence::kView &&
            std::equal(x->items.begin(), x->items.end(), y->items.begin(), y->items.end(),
                       [&](const Value& p, const Value& q) { return equal(budget, p, q); }));
  }
  if (const auto* x = a.dict(), *y = b.dict(); x && y) {
    return x->items.size() == y->items.size() &&
           std::all_of(x->items.begin(), x->items.end(), [&](const auto& item) {
             const Value* other = find(budget, *y, item.first);
             return other && equal(budget, item.second, *other);
           });
  }
  return a == b;  // the same object
}

int compare(Budget& budget, const Value& a, const Value& b, bool ignore_case) {
  budget.spend(1);
  if (a.integer() && b.integer())
    return *a.integer() < *b.integer() ? -1 : *a.integer() > *b.integer();
  if (const auto x = a.as_double(), y = b.as_double(); x && y) return *x < *y ? -1 : *x > *y;
  if (const auto* x = a.str(), *y = b.str(); x && y) {
    budget.spend(std::min(x->text.size(), y->text.size()) / 64);
    if (!ignore_case) return x->text.compare(y->text);
    return lower(x->text).compare(lower(y->text));
  }
  const auto *x = a.sequence(), *y = b.sequence();
  if (!x || !y || x->kind != y->kind || x->kind > Sequence::kTuple)
    budget.raise("'{}' and '{}' cannot be ordered", type_name(a), type_name(b));
  for (std::size_t i = 0; i < x->items.size() && i < y->items.size(); ++i) {
    if (!equal(budget, x->items[i], y->items[i]))
      return compare(budget, x->items[i], y->items[i], ignore_case);
  }
  return x->items.size() < y->items.size() ? -1 : x->items.size() > y->items.size();
}

const Value* find(Budget& budget, const Dict& dict, const Value& key) {
  for (const auto& [k, v] : dict.items) {
    if (equal(budget, k, key)) return &v;
  }
  return nullptr;
}

std::string repr(Budget& budget, const Value& v) {
  if (const auto* s = v.str()) {
    budget.spend(s->text.size() / 16 + 1);
    const std::string quoted = python_quote(s->text);
    return s->markup ? fmt::format("Markup({})", quoted) : quoted;
  }
  if (v.undefined()) return "Undefined";
  return to_str(budget, v);
}

std::string to_str(Budget& budget, const Value& v) {
  budget.spend(1);
  if (v.undefined()) return "";
  if (v.none()) return "None";
  if (const auto* b = v.boolean()) return *b ? "True" : "False";
  if (const auto* i = v.integer()) return std::to_string(*i);
  if (const auto* d = v.real()) return python_float(*d);
  if (const auto* s = v.str()) return s->text;
  std::string out;
  if (const auto* s = v.sequence()) {
    if (s->kind > Sequence::kTuple)
      budget.raise("printing a {} is not supported; add `| list`", type_name(v));
    for (const Value& item : s->items) out += (out.empty() ? "" : ", ") + repr(budget, item);
    if (s->kind == Sequence::kTuple && s->items.size() == 1) out += ",";
    out = s->kind == Sequence::kTuple ? fmt::format("({})", out) : fmt::format("[{}]", out);
  } else if (const auto* d = v.dict()) {
    for (const auto& [key, value] : d->items)
      out += (out.empty() ? "" : ", ") + repr(budget, key) + ": " + repr(budget, value);
    out = fmt::format("{{{}}}", out);
  } else {
    budget.raise("printing a {} is not supported", type_name(v));
  }
  budget.spend(out.size() / 16);
  return out;
}

std::shared_ptr<const Sequence> iterate(Budget& budget, const Value& v) {
  if (v.sequence()) return std::get<std::shared_ptr<const Sequence>>(v);
  std::vector<Value> items;
  if (const auto* s = v.str()) {
    budget.spend(s->text.size());
    for (const auto part : code_points(s->text)) items.emplace_back(std::string(part), s->markup);
  } else if (const auto* d = v.dict()) {
    for (const auto& [key, value] : d->items) items.push_back(key);
  } else if (!v.undefined()) {
    budget.raise("'{}' object is not iterable", type_name(v));
  }
  return std::get<std::shared_ptr<const Sequence>>(
      make_sequence(budget, std::move(items), Sequence::kIterator));
}

}  // namespace qad::text::jinja
