// Filters on sequences and the tests (`is ...`).
#include "text/jinja_sequences.h"

#include <algorithm>

#include "text/jinja_text.h"

namespace qad::text::jinja {
namespace {

// "a.b.0": attribute after attribute, digits as indices.
Value path(Interpreter& in, const Value& item, const Value& attribute_path,
           const Value* fallback = nullptr) {
  Value v = item;
  if (attribute_path.integer()) {
    v = subscript(in, v, attribute_path);
  } else {
    const std::string text = to_str(in.budget, attribute_path);
    for (std::size_t start = 0; start <= text.size();) {
      const std::size_t dot = std::min(text.find('.', start), text.size());
      const std::string part = text.substr(start, dot - start);
      const bool digits =
          !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == part.npos;
      v = subscript(in, v,
                    digits ? Value(static_cast<std::int64_t>(std::stoll(part))) : Value(part));
      if (fallback && v.undefined()) v = *fallback;
      start = dot + 1;
    }
  }
  return v;
}

Value key_of(Interpreter& in, const Value& item, const Value* attribute_path, bool case_sensitive) {
  Value key = attribute_path && !attribute_path->none() ? path(in, item, *attribute_path) : item;
  if (!case_sensitive && key.str()) return Value(lower(key.str()->text));
  return key;
}

std::vector<std::pair<Value, Value>> keyed(Interpreter& in, const Value& v,
                                           const Value* attribute_path, bool case_sensitive) {
  std::vector<std::pair<Value, Value>> out;
  const auto items = iterate(in.budget, v);
  for (const Value& item : items->items)
    out.emplace_back(key_of(in, item, attribute_path, case_sensitive), item);
  return out;
}

Value extreme(Interpreter& in, const Value& v, const Args& args, std::string_view name, int sign) {
  const auto a = bind(in.budget, name, args, {"case_sensitive", "attribute"});
  const auto items = keyed(in, v, a[1], a[0] && truth(*a[0]));
  if (items.empty()) return undefined("No aggregated item, sequence was empty.");
  std::size_t best = 0;
  for (std::size_t i = 1; i < items.size(); ++i) {
    if (compare(in.budget, items[i].first, items[best].first) * sign < 0) best = i;
  }
  return items[best].second;
}

}  // namespace

Value items_of(Interpreter& in, const Value& v, const Args& args) {
  bind(in.budget, "items", args, {});
  std::vector<Value> items;
  if (!v.dict() && !v.undefined()) in.budget.raise("items: can only get item pairs from a mapping");
  if (v.dict()) {
    for (const auto& [key, value] : v.dict()->items)
      items.push_back(make_sequence(in.budget, {key, value}, Sequence::kTuple));
  }
  return make_sequence(in.budget, std::move(items), Sequence::kIterator);
}

Value join(Interpreter& in, const Value& v, const Args& args) {
  const auto a = bind(in.budget, "join", args, {"d", "attribute"});
  const std::string separator = a[0] ? to_str(in.budget, *a[0]) : "";
  std::string out;
  const auto items = iterate(in.budget, v);
  for (std::size_t i = 0; i < items->items.size(); ++i) {
    if (i > 0) out += separator;
    const std::string part = to_str(
        in.budget, a[1] && !a[1]->none() ? path(in, items->items[i], *a[1]) : items->items[i]);
    out += part;
    in.budget.spend((separator.size() + part.size()) / 16 + 1);
  }
  return Value(std::move(out));
}

Value list_of(Interpreter& in, const Value& v, const Args& args) {
  bind(in.budget, "list", args, {});
  return make_sequence(in.budget, iterate(in.budget, v)->items);
}

Value map_items(Interpreter& in, const Value& v, const Args& args) {
  if (v.undefined() || !truth(v)) return make_sequence(in.budget, {}, Sequence::kIterator);
  std::vector<Value> out;
  const auto items = iterate(in.budget, v);
  if (args.positional.empty()) {
    const auto a = bind(in.budget, "map", args, {"attribute", "default"});
    if (!a[0]) in.budget.raise("map: expected a filter or attribute=");
    for (const Value& item : items->items) out.push_back(path(in, item, *a[0], a[1]));
  } else {
    const std::string filter = to_str(in.budget, args.positional[0]);
    const Args rest{{args.positional.begin() + 1, args.positional.end()}, args.named};
    for (const Value& item : items->items) out.push_back(apply_filter(in, filter, item, rest));
  }
  return make_sequence(in.budget, std::move(out), Sequence::kIterator);
}

Value first(Interpreter& in, const Value& v, const Args& args) {
  bind(in.budget, "first", args, {});
  const auto items = iterate(in.budget, v);
  return items->items.empty() ? undefined("No first item, sequence was empty.")
                              : items->items.front();
}

Value last(Interpreter& in, const Value& v, const Args& args) {
  bind(in.budget, "last", args, {});
  if (v.sequence() && v.sequence()->kind == Sequence::kIterator)
    in.budget.raise("last of a generator; add `| list`");
  const auto items = iterate(in.budget, v);
  return items->items.empty() ? undefined("No last item, sequence was empty.")
                              : items->items.back();
}

Value sort(Interpreter& in, const Value& v, const Args& args) {
  const auto a = bind(in.budget, "sort", args, {"reverse", "case_sensitive", "attribute"});
  if (a[2] && a[2]->str() && a[2]->str()->text.find(',') != std::string::npos)
    in.budget.raise("sort: several attributes are not supported");
  auto items = keyed(in, v, a[2], a[1] && truth(*a[1]));
  const int sign = a[0] && truth(*a[0]) ? -1 : 1;
  std::stable_sort(items.begin(), items.end(), [&](const auto& x, const auto& y) {
    return compare(in.budget, x.first, y.first) * sign < 0;
  });
  std::vector<Value> out;
  for (auto& [key, item] : items) out.push_back(std::move(item));
  return make_sequence(in.budget, std::move(out));
}

Value unique(Interpreter& in, const Value& v, const Args& args) {
  const auto a = bind(in.budget, "unique", args, {"case_sensitive", "attribute"});
  std::vector<Value> seen, out;
  for (const auto& [key, item] : keyed(in, v, a[1], a[0] && truth(*a[0]))) {
    const bool old = std::any_of(seen.begin(), seen.end(),
                                 [&, &k = key](const Value& s) { return equal(in.budget, s, k); });
    if (old) continue;
    seen.push_back(key);
    out.push_back(item);
  }
  return make_sequence(in.budget, std::move(out), Sequence::kIterator);
}

Value reverse(Interpreter& in, const Value& v, const Args& args) {
  bind(in.budget, "reverse", args, {});
  if (v.str()) return slice(in.budget, v, nullptr, nullptr, std::int64_t{-1});
  auto items = iterate(in.budget, v)->items;
  std::reverse(items.begin(), items.end());
  return make_sequence(in.budget, std::move(items), Sequence::kIterator);
}

Value dictsort(Interpreter& in, const Value& v, const Args& args) {
  const auto a = bind(in.budget, "dictsort", args, {"case_sensitive", "by", "reverse"});
  if (!v.dict()) in.budget.raise("dictsort of a {}", type_name(v));
  const std::string by = a[1] ? to_str(in.budget, *a[1]) : "key";
  if (by != "key" && by != "value") in.budget.raise("dictsort: can only sort by key or value");
  std::vector<Value> pairs;
  for (const auto& [key, value] : v.dict()->items)
    pairs.push_back(make_sequence(in.budget, {key, value}, Sequence::kTuple));
  Args options;
  options.named = {{"attribute", Value(std::int64_t{by == "value"})}};
  if (a[0]) options.named.emplace_back("case_sensitive", *a[0]);
  if (a[2]) options.named.emplace_back("reverse", *a[2]);
  return sort(in, make_sequence(in.budget, std::move(pairs)), options);
}

Value minimum(Interpreter& in, const Value& v, const Args& args) {
  return extreme(in, v, args, "min", 1);
}
Value maximum(Interpreter& in, const Value& v, const Args& args) {
  return extreme(in, v, args, "max", -1);
}

Value sum(Interpreter& in, const Value& v, const Args& args) {
  const auto a = bind(in.budget, "sum", args, {"attribute", "start"});
  Value total = a[1] ? *a[1] : Value(std::int64_t{0});
  if (total.str()) in.budget.raise("sum cannot add strings");
  const auto items = iterate(in.budget, v);
  for (const Value& item : items->items)
    total = binary(in.budget, "+", total, a[0] && !a[0]->none() ? path(in, item, *a[0]) : item);
  return total;
}

Value select(Interpreter& in, const Value& v, const Args& args, bool reject, bool by_attribute) {
  std::vector<Value> out;
  const std::size_t offset = by_attribute ? 1 : 0;
  if (args.positional.size() < offset)
    in.budget.raise("selectattr/rejectattr: expected an attribute");
  if (truth(v)) {
    const auto items = iterate(in.budget, v);
    Args rest{{}, args.named};
    if (args.positional.size() > offset)
      rest.positional.assign(args.positional.begin() + static_cast<std::ptrdiff_t>(offset) + 1,
                             args.positional.end());
    for (const Value& item : items->items) {
      const Value subject = by_attribute ? path(in, item, args.positional[0]) : item;
      const bool holds =
          args.positional.size() > offset
              ? apply_test(in, to_str(in.budget, args.positional[offset]), subject, rest)
              : truth(subject);
      if (holds != reject) out.push_back(item);
    }
  }
  return make_sequence(in.budget, std::move(out), Sequence::kIterator);
}

bool apply_test(Interpreter& in, const std::string& name, const Value& v, const Args& args) {
  Budget& budget = in.budget;
  budget.spend(1);
  const auto other = [&]() -> const Value& {
    if (args.positional.size() != 1 || !args.named.empty())
      budget.raise("test '{}' takes one argument", name);
    return args.positional[0];
  };
  const auto is = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (is({"==", "eq", "equalto"})) return equal(budget, v, other());
  if (is({"!=", "ne"})) return !equal(budget, v, other());
  if (is({"<", "lt", "lessthan"})) return compare(budget, v, other()) < 0;
  if (is({"<=", "le"})) return compare(budget, v, other()) <= 0;
  if (is({">", "gt", "greaterthan"})) return compare(budget, v, other()) > 0;
  if (is({">=", "ge"})) return compare(budget, v, other()) >= 0;
  if (name == "in") return contains(budget, other(), v);
  if (name == "sameas") {
    if (v.str() || v.number() != other().number() ||
        (v.number() && v.index() == other().index() && !v.boolean()))
      budget.raise("test 'sameas' of a {} is not supported", type_name(v));
    return static_cast<const Value&>(v) == other();
  }
  if (name == "divisibleby") return *binary(budget, "%", v, other()).as_double() == 0;
  if (!args.positional.empty() || !args.named.empty())
    budget.raise("test '{}' takes no argument", name);
  if (name == "odd" || name == "even") {
    const auto rest = binary(budget, "%", v, Value(std::int64_t{2})).as_double();
    return rest && *rest == (name == "odd" ? 1 : 0);
  }
  if (name == "defined") return !v.undefined();
  if (name == "undefined") return v.undefined();
  if (name == "none") return v.none();
  if (name == "boolean") return v.boolean() != nullptr;
  if (name == "true" || name == "false") return v.boolean() && *v.boolean() == (name == "true");
  if (name == "integer") return v.integer() != nullptr;
  if (name == "float") return v.real() != nullptr;
  if (name == "number") return v.number();
  if (name == "string") return v.str() != nullptr;
  if (name == "mapping") return v.dict() != nullptr;
  if (name == "sequence") {
    return v.str() || v.dict() || v.undefined() ||
           (v.sequence() && v.sequence()->kind <= Sequence::kRange);
  }
  if (name == "iterable") return v.str() || v.dict() || v.sequence() || v.undefined() || v.loop();
  if (name == "callable") return v.callable() != nullptr;
  if (name == "escaped") return v.str() && v.str()->markup;
  if (name == "upper" || name == "lower") {
    const std::string text = to_str(budget, v);
    return name == "upper" ? is_upper(text) : is_lower(text);
  }
  budget.raise("test '{}' is not supported", name);
}

}  // namespace qad::text::jinja
