// Methods of Python's str, list and dict. Methods that change their
// object are undefined to templates, as in Transformers' sandbox.
#include <algorithm>
#include <array>

#include "text/jinja_eval.h"
#include "text/jinja_text.h"

namespace qad::text::jinja {
namespace {

const std::string& text_arg(Budget& budget, std::string_view what, const Value* v) {
  if (!v || !v->str())
    budget.raise("{}: expected a string, found {}", what, v ? type_name(*v) : "nothing");
  return v->str()->text;
}

Value texts(Budget& budget, const std::vector<std::string_view>& parts, bool markup) {
  std::vector<Value> items;
  for (const auto part : parts) items.emplace_back(std::string(part), markup);
  return make_sequence(budget, std::move(items));
}

// str.split and str.rsplit with a separator, or at white space; `limit` < 0: no limit.
std::vector<std::string_view> split(std::string_view text, const std::string* separator,
                                    std::int64_t limit, bool from_right) {
  std::vector<std::string_view> parts;
  if (separator) {
    for (; limit != 0; --limit) {
      const std::size_t hit = from_right ? text.rfind(*separator) : text.find(*separator);
      if (hit == text.npos) break;
      const std::string_view left = text.substr(0, hit),
                             right = text.substr(hit + separator->size());
      parts.push_back(from_right ? right : left);
      text = from_right ? left : right;
    }
    parts.push_back(text);
  } else {
    for (;;) {
      text = strip(text, "", from_right ? 2 : 1);
      if (text.empty()) break;
      if (limit-- == 0) {
        parts.push_back(text);
        break;
      }
      const auto points = code_points(text);
      std::size_t size = 0;
      if (from_right) {
        for (std::size_t i = points.size(); i > 0 && !is_space(points[i - 1]); --i)
          size += points[i - 1].size();
        parts.push_back(text.substr(text.size() - size));
        text.remove_suffix(size);
      } else {
        for (std::size_t i = 0; i < points.size() && !is_space(points[i]); ++i)
          size += points[i].size();
        parts.push_back(text.substr(0, size));
        text.remove_prefix(size);
      }
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  std::size_t start = 0;
  const auto points = code_points(text);
  for (std::size_t i = 0, at = 0; i < points.size(); ++i) {
    const std::string_view p = points[i];
    std::size_t end = at + p.size();
    const bool breaks = p == "\n" || p == "\r" || p == "\v" || p == "\f" || p == "\x1c" ||
                        p == "\x1d" || p == "\x1e" || p == "\xc2\x85" || p == "\xe2\x80\xa8" ||
                        p == "\xe2\x80\xa9";
    if (breaks) {
      if (p == "\r" && i + 1 < points.size() && points[i + 1] == "\n") {
        ++i;
        ++end;
      }
      lines.push_back(text.substr(start, (keep_ends ? end : at) - start));
      start = end;
    }
    at = end;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

Value affix(Budget& budget, const std::string& text, const Args& args, bool start) {
  const auto a = bind(budget, start ? "startswith" : "endswith", args, {"prefix"});
  const auto matches = [&](const Value& v) {
    const std::string& part = text_arg(budget, "startswith/endswith", &v);
    return start ? text.starts_with(part) : text.ends_with(part);
  };
  if (a[0] && a[0]->sequence() && a[0]->sequence()->kind == Sequence::kTuple) {
    const auto& items = a[0]->sequence()->items;
    return std::any_of(items.begin(), items.end(), matches);
  }
  return matches(a[0] ? *a[0] : Value());
}

std::int64_t index_in_points(const std::string& text, std::size_t byte) {
  return byte == text.npos
             ? -1
             : static_cast<std::int64_t>(length(std::string_view(text).substr(0, byte)));
}

std::int64_t count_of(const std::string& text, const std::string& part) {
  if (part.empty()) return static_cast<std::int64_t>(length(text)) + 1;
  std::int64_t n = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != text.npos; at += part.size()) ++n;
  return n;
}

template <class F>
bool all_points(const std::string& text, F f) {
  const auto points = code_points(text);
  return !points.empty() && std::all_of(points.begin(), points.end(), f);
}

Value call_string(Interpreter& in, const std::string& name, const Str& self, const Args& args) {
  Budget& budget = in.budget;
  const std::string& text = self.text;
  budget.spend(text.size() / 8 + 1);
  const auto make = [&](std::string s) { return Value(std::move(s), self.markup); };
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const auto a = bind(budget, name, args, {"chars"});
    const bool chars = a[0] && !a[0]->none();
    if (chars && text_arg(budget, name, a[0]).empty()) return make(text);
    return make(std::string(strip(text, chars ? text_arg(budget, name, a[0]) : "",
                                  name[0] == 'l'   ? 1
                                  : name[0] == 'r' ? 2
                                                   : 3)));
  }
  if (name == "split" || name == "rsplit") {
    const auto a = bind(budget, name, args, {"sep", "maxsplit"});
    const std::string* separator = a[0] && !a[0]->none() ? &text_arg(budget, name, a[0]) : nullptr;
    if (separator && separator->empty()) budget.raise("{}: empty separator", name);
    const auto parts =
        split(text, separator, a[1] ? to_int(budget, name, *a[1]) : -1, name[0] == 'r');
    return texts(budget, parts, self.markup);
  }
  if (name == "splitlines") {
    const auto a = bind(budget, name, args, {"keepends"});
    return texts(budget, split_lines(text, a[0] && truth(*a[0])), self.markup);
  }
  if (name == "replace") {
    const auto a = bind(budget, name, args, {"old", "new", "count"});
    const std::string &from = text_arg(budget, name, a[0]), &to = text_arg(budget, name, a[1]);
    const auto hits = static_cast<std::size_t>(count_of(text, from));
    if (to.size() > 0 && hits > kMaxOutput / to.size())
      budget.raise("replace: the result is too long");
    budget.spend(hits * to.size() / 16);
    return make(replace_all(text, from, to, a[2] ? to_int(budget, name, *a[2]) : -1));
  }
  if (name == "startswith" || name == "endswith") return affix(budget, text, args, name[0] == 's');
  if (name == "join") {
    const auto a = bind(budget, name, args, {"iterable"});
    std::string out;
    const auto items = iterate(budget, a[0] ? *a[0] : Value(nullptr));
    for (std::size_t i = 0; i < items->items.size(); ++i) {
      if (i > 0) out += text;
      out += text_arg(budget, "join", &items->items[i]);
      budget.spend(text.size() / 16 + items->items[i].str()->text.size() / 16);
    }
    return make(std::move(out));
  }
  if (name == "find" || name == "rfind" || name == "index" || name == "count") {
    const auto a = bind(budget, name, args, {"sub"});
    const std::string& part = text_arg(budget, name, a[0]);
    if (name == "count") return count_of(text, part);
    const std::int64_t at =
        index_in_points(text, name == "rfind" ? text.rfind(part) : text.find(part));
    if (at < 0 && name == "index") budget.raise("index: substring not found");
    return at;
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const auto a = bind(budget, name, args, {"part"});
    const std::string& part = text_arg(budget, name, a[0]);
    if (name == "removeprefix")
      return make(text.starts_with(part) ? text.substr(part.size()) : text);
    return make(text.ends_with(part) ? text.substr(0, text.size() - part.size()) : text);
  }
  if (name == "format") {
    std::string out;
    std::size_t automatic = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if ((text[i] == '{' || text[i] == '}') && i + 1 < text.size() && text[i + 1] == text[i]) {
        out += text[i++];
      } else if (text[i] == '{') {
        const std::size_t end = text.find('}', i);
        if (end == text.npos) budget.raise("format: '{{' without '}}'");
        const std::string field = text.substr(i + 1, end - i - 1);
        if (field.find_first_of(":!.[") != field.npos)
          budget.raise("format: field '{}' is not supported", field);
        const Value* v = nullptr;
        const bool digits =
            std::all_of(field.begin(), field.end(), [](char c) { return c >= '0' && c <= '9'; });
        if (digits && field.size() < 6) {
          const std::size_t k = field.empty() ? automatic++ : std::stoul(field);
          if (k < args.positional.size()) v = &args.positional[k];
        }
        for (const auto& [key, value] : args.named) v = key == field ? &value : v;
        if (!v) budget.raise("format: no argument for field '{}'", field);
        out += to_str(budget, *v);
        budget.spend(out.size() / 16);
        i = end;
      } else {
        out += text[i];
      }
    }
    return make(std::move(out));
  }
  bind(budget, name, args, {});
  if (name == "upper") return make(upper(text));
  if (name == "lower") return make(lower(text));
  if (name == "title") return make(title(text));
  if (name == "capitalize") return make(capitalize(text));
  if (name == "isspace") return all_points(text, is_space);
  if (name == "isdigit") {
    return all_points(
        text, [](std::string_view p) { return p.size() == 1 && p[0] >= '0' && p[0] <= '9'; });
  }
  if (name == "isupper") return is_upper(text);
  return is_lower(text);  // islower
}

Value call_dict(Interpreter& in, const std::string& name, const Value& self, const Args& args) {
  Budget& budget = in.budget;
  const Dict& dict = *self.dict();
  if (name == "get") {
    const auto a = bind(budget, name, args, {"key", "default"});
    if (!a[0]) budget.raise("get: expected a key");
    const Value* found = find(budget, dict, *a[0]);
    return found ? *found : a[1] ? *a[1] : Value(nullptr);
  }
  bind(budget, name, args, {});
  if (name == "copy") return self;
  std::vector<Value> items;
  for (const auto& [key, value] : dict.items) {
    if (name == "items")
      items.push_back(make_sequence(budget, {key, value}, Sequence::kTuple));
    else
      items.push_back(name == "keys" ? key : value);
  }
  return make_sequence(budget, std::move(items), Sequence::kView);
}

Value call_list(Interpreter& in, const std::string& name, const Value& self, const Args& args) {
  Budget& budget = in.budget;
  const auto& items = self.sequence()->items;
  if (name == "copy") {
    bind(budget, name, args, {});
    return self;
  }
  const auto a = bind(budget, name, args, {"value"});
  if (!a[0]) budget.raise("{}: expected a value", name);
  std::int64_t count = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (!equal(budget, items[i], *a[0])) continue;
    if (name == "index") return static_cast<std::int64_t>(i);
    ++count;
  }
  if (name == "index") budget.raise("index: value not in list");
  return count;
}

constexpr std::array kString = {"strip",        "lstrip",  "rstrip",     "split",    "rsplit",
                                "splitlines",   "replace", "startswith", "endswith", "join",
                                "find",         "rfind",   "index",      "count",    "removeprefix",
                                "removesuffix", "format",  "upper",      "lower",    "title",
                                "capitalize",   "isspace", "isdigit",    "isupper",  "islower"};
// Python has these and we don't: an error rather than an undefined value.
constexpr std::array kStringMissing = {
    "casefold",   "center",   "encode",    "expandtabs",   "format_map", "isalnum",
    "isalpha",    "isascii",  "isdecimal", "isidentifier", "isnumeric",  "isprintable",
    "istitle",    "ljust",    "maketrans", "partition",    "rindex",     "rjust",
    "rpartition", "swapcase", "translate", "zfill"};
constexpr std::array kDict = {"get", "items", "keys", "values", "copy"};
constexpr std::array kList = {"index", "count", "copy"};

template <std::size_t N>
bool has(const std::array<const char*, N>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

Value method(Interpreter& in, const Value& self, const std::string& name) {
  if (const auto* s = self.str()) {
    if (has(kStringMissing, name))
      in.budget.raise("method '{}' of a string is not supported", name);
    if (!has(kString, name)) return {};
    return function(name, [name, text = *s](Interpreter& i, const Args& a) {
      return call_string(i, name, text, a);
    });
  }
  if (const auto* d = self.dict(); d && has(kDict, name)) {
    return function(
        name, [name, self](Interpreter& i, const Args& a) { return call_dict(i, name, self, a); },
        d->depth + 1);
  }
  if (const auto* s = self.sequence(); s && s->kind <= Sequence::kRange && has(kList, name)) {
    return function(
        name, [name, self](Interpreter& i, const Args& a) { return call_list(i, name, self, a); },
        s->depth + 1);
  }
  return {};
}

}  // namespace qad::text::jinja
