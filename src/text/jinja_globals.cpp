// The functions a template can call by name, and how arguments are bound.
#include <algorithm>
#include <ctime>

#include "text/jinja_eval.h"

namespace qad::text::jinja {
namespace {

Value range(Interpreter& in, const Args& args) {
  Budget& budget = in.budget;
  const auto a = bind(budget, "range", args, {"start", "stop", "step"});
  if (!a[0]) budget.raise("range: expected 1 to 3 integers");
  const std::int64_t first = to_int(budget, "range", *a[0]);
  const std::int64_t start = a[1] ? first : 0, stop = a[1] ? to_int(budget, "range", *a[1]) : first;
  const std::int64_t step = a[2] ? to_int(budget, "range", *a[2]) : 1;
  if (step == 0) budget.raise("range: step cannot be zero");
  constexpr std::size_t kMaxRange = 100'000;  // of jinja2's sandbox
  std::vector<Value> items;
  for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (items.size() == kMaxRange) budget.raise("range: more than {} items", kMaxRange);
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return make_sequence(budget, std::move(items), Sequence::kRange);
}

Value dict_function(Interpreter& in, const Args& args) {
  std::vector<std::pair<Value, Value>> items;
  for (const Value& v : args.positional) {
    if (v.dict()) {
      items.insert(items.end(), v.dict()->items.begin(), v.dict()->items.end());
      continue;
    }
    const auto pairs = iterate(in.budget, v);
    for (const Value& pair : pairs->items) {
      const auto two = iterate(in.budget, pair);
      if (two->items.size() != 2) in.budget.raise("dict: expected pairs");
      items.emplace_back(two->items[0], two->items[1]);
    }
  }
  for (const auto& [key, value] : args.named) items.emplace_back(Value(key), value);
  return make_dict(in.budget, std::move(items));
}

Value strftime_now(Interpreter& in, const Args& args) {
  const auto a = bind(in.budget, "strftime_now", args, {"format"});
  if (!a[0] || !a[0]->str()) in.budget.raise("strftime_now: expected a string");
  const std::string& format = a[0]->str()->text;
  if (format.empty()) return Value("");
  if (format.size() > 1000) in.budget.raise("strftime_now: format of {} bytes", format.size());
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string out(format.size() * 128, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
  return Value(std::move(out));
}

}  // namespace

Value function(std::string name, std::function<Value(Interpreter&, const Args&)> f, int depth) {
  return std::make_shared<const Callable>(Callable{std::move(name), std::move(f), depth});
}

Value global(const std::string& name) {
  if (name == "range") return function(name, range);
  if (name == "dict") return function(name, dict_function);
  if (name == "strftime_now") return function(name, strftime_now);
  if (name == "namespace")
    return function(name, [](Interpreter& in, const Args& a) { return in.make_namespace(a); });
  if (name == "raise_exception") {
    return function(name, [](Interpreter& in, const Args& args) -> Value {
      const auto a = bind(in.budget, "raise_exception", args, {"message"});
      in.budget.raise("the template refuses: {}", a[0] ? to_str(in.budget, *a[0]) : "");
    });
  }
  for (const char* const missing : {"cycler", "joiner", "lipsum"}) {
    if (name == missing)
      return function(name, [name](Interpreter& in, const Args&) -> Value {
        in.budget.raise("{}() is not supported", name);
      });
  }
  return {};
}

std::vector<const Value*> bind(Budget& budget, std::string_view what, const Args& args,
                               std::initializer_list<std::string_view> names) {
  std::vector<const Value*> bound(names.size(), nullptr);
  if (args.positional.size() > names.size())
    budget.raise("{}: takes at most {} arguments, found {}", what, names.size(),
                 args.positional.size());
  for (std::size_t i = 0; i < args.positional.size(); ++i) bound[i] = &args.positional[i];
  for (const auto& [key, value] : args.named) {
    const auto it = std::find(names.begin(), names.end(), key);
    if (it == names.end()) budget.raise("{}: no argument is named '{}'", what, key);
    bound[static_cast<std::size_t>(it - names.begin())] = &value;
  }
  return bound;
}

}  // namespace qad::text::jinja
