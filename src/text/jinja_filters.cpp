// Filters on text, numbers and single values; those on sequences are in jinja_sequences.cpp.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_map>

#include "text/jinja_eval.h"
#include "text/jinja_sequences.h"
#include "text/jinja_text.h"

namespace qad::text::jinja {
namespace {

using Filter = Value (*)(Interpreter&, const Value&, const Args&);

// soft_str: text stays as it is, Markup included.
Value soft(Budget& budget, const Value& v) {
  return v.str() ? v : Value(to_str(budget, v));
}

Value changed(Interpreter& in, const Value& v, std::string (*f)(std::string_view)) {
  const Value text = soft(in.budget, v);
  in.budget.spend(text.str()->text.size() / 4 + 1);
  return Value(f(text.str()->text), text.str()->markup);
}

// jinja2's own title: words start after white space and - ( { [ <.
std::string jinja_title(std::string_view text) {
  std::string out;
  bool start = true;
  for (const auto cp : code_points(text)) {
    out += start ? upper(cp) : lower(cp);
    start = is_space(cp) || std::string_view("-({[<").find(cp) != std::string_view::npos;
  }
  return out;
}

Value trim(Interpreter& in, const Value& v, const Args& args) {
  const auto a = bind(in.budget, "trim", args, {"chars"});
  const Value text = soft(in.budget, v);
  std::string_view chars;
  if (a[0] && !a[0]->none()) {
    if (!a[0]->str()) in.budget.raise("trim: expected a string, found {}", type_name(*a[0]));
    chars = a[0]->str()->text;
    if (chars.empty()) return text;
  }
  return Value(std::string(strip(text.str()->text, chars, 3)), text.str()->markup);
}

Value length_of(Interpreter& in, const Value& v, const Args& args) {
  bind(in.budget, "length", args, {});
  if (v.str()) {
    in.budget.spend(v.str()->text.size() / 64);
    return static_cast<std::int64_t>(length(v.str()->text));
  }
  if (v.sequence() && v.sequence()->kind != Sequence::kIterator)
    return static_cast<std::int64_t>(v.sequence()->items.size());
  if (v.dict()) return static_cast<std::int64_t>(v.dict()->items.size());
  if (v.undefined()) return std::int64_t{0};
  in.budget.raise("object of type '{}' has no length", type_name(v));
}

Value default_value(Interpreter& in, const Value& v, const Args& args) {
  const auto a = bind(in.budget, "default", args, {"default_value", "boolean"});
  const bool replace = v.undefined() || (a[1] && truth(*a[1]) && !truth(v));
  return !replace ? v : a[0] ? *a[0] : Value("");
}

Value replace(Interpreter& in, const Value& v, const Args& args) {
  const auto a = bind(in.budget, "replace", args, {"old", "new", "count"});
  if (!a[0] || !a[1]) in.budget.raise("replace: expected two strings");
  Args plain{{Value(to_str(in.budget, *a[0])), Value(to_str(in.budget, *a[1]))}, {}};
  if (a[2] && !a[2]->none()) plain.positional.push_back(*a[2]);
  return in.call(method(in, Value(to_str(in.budget, v)), "replace"), plain);
}

// int() and float() of text. nullopt when Python would raise.
std::optional<double> parse_real(std::string_view text) {
  std::string s(strip(text, "", 3));
  for (std::size_t i = 1; i + 1 < s.size(); ++i) {
    if (s[i] == '_' && std::isdigit(static_cast<unsigned char>(s[i - 1]))) s.erase(i, 1);
  }
  const std::string low = lower(s);
  for (const std::string_view word : {"inf", "infinity", "nan"}) {
    if (low == word || low == fmt::format("+{}", word)) return word == "nan" ? NAN : INFINITY;
    if (low == fmt::format("-{}", word)) return word == "nan" ? NAN : -INFINITY;
  }
  if (s.empty() || s.find_first_not_of("0123456789+-.eE") != s.npos) return {};
  char* end = nullptr;
  const double d = std::strtod(s.c_str(), &end);
  return *end == '\0' ? std::optional(d) : std::nullopt;
}

Value to_integer(Interpreter& in, const Value& v, const Args& args) {
  const auto a = bind(in.budget, "int", args, {"default", "base"});
  if (a[1] && !(a[1]->integer() && *a[1]->integer() == 10))
    in.budget.raise("int: only base 10 is supported");
  const Value fallback = a[0] ? *a[0] : Value(std::int64_t{0});
  if (const auto i = v.as_int()) return *i;
  std::optional<double> d = v.as_double();
  if (v.str()) {
    std::string s(strip(v.str()->text, "", 3));
    std::erase(s, '_');
    if (!s.empty() && s.find_first_not_of("0123456789", s[0] == '-' || s[0] == '+') == s.npos &&
        s.size() < 19)
      return static_cast<std::int64_t>(std::strtoll(s.c_str(), nullptr, 10));
    d = parse_real(s);
  }
  if (!d || !std::isfinite(*d)) return fallback;
  if (std::abs(*d) > 9e18) in.budget.raise("int: integer beyond 64 bits");
  return static_cast<std::int64_t>(*d);
}

Value to_real(Interpreter& in, const Value& v, const Args& args) {
  const auto a = bind(in.budget, "float", args, {"default"});
  std::optional<double> d = v.str() ? parse_real(v.str()->text) : v.as_double();
  return d ? Value(*d) : a[0] ? *a[0] : Value(0.0);
}

Value absolute(Interpreter& in, const Value& v, const Args& args) {
  bind(in.budget, "abs", args, {});
  if (const auto i = v.as_int())
    return *i < 0 ? binary(in.budget, "-", Value(std::int64_t{0}), v) : Value(*i);
  if (v.real()) return std::abs(*v.real());
  in.budget.raise("abs of a {}", type_name(v));
}

Value round_number(Interpreter& in, const Value& v, const Args& args) {
  const auto a = bind(in.budget, "round", args, {"precision", "method"});
  const std::int64_t precision = a[0] ? to_int(in.budget, "round", *a[0]) : 0;
  const std::string how = a[1] && a[1]->str() ? a[1]->str()->text : "common";
  if (!v.as_double()) in.budget.raise("round of a {}", type_name(v));
  if (how != "common" && how != "ceil" && how != "floor")
    in.budget.raise("round: no method '{}'", how);
  if (precision < 0 || precision > 15)
    in.budget.raise("round: a precision of {} is not supported", precision);
  const double d = *v.as_double(), scale = std::pow(10.0, static_cast<double>(precision));
  if (how != "common")
    return (how == "ceil" ? std::ceil(d * scale) : std::floor(d * scale)) / scale;
  if (const auto i = v.as_int()) return *i;
  // Correctly rounded decimal digits, ties to even on the exact binary value, as Python's round().
  return std::strtod(fmt::format("{:.{}f}", d, precision).c_str(), nullptr);
}

Value indent(Interpreter& in, const Value& v, const Args& args) {
  const auto a = bind(in.budget, "indent", args, {"width", "first", "blank"});
  const bool first = a[1] && truth(*a[1]), blank = a[2] && truth(*a[2]);
  std::string margin(4, ' ');
  if (a[0] && a[0]->str())
    margin = a[0]->str()->text;
  else if (a[0])
    margin.assign(static_cast<std::size_t>(
                      std::clamp<std::int64_t>(to_int(in.budget, "indent", *a[0]), 0, 1000)),
                  ' ');
  if (!v.str()) in.budget.raise("indent of a {}", type_name(v));
  const Value with_end(v.str()->text + "\n");
  const Value lines = in.call(method(in, with_end, "splitlines"), {});
  std::string out = first ? margin : "";
  for (std::size_t i = 0; i < lines.sequence()->items.size(); ++i) {
    const std::string& line = lines.sequence()->items[i].str()->text;
    if (i > 0) out += "\n";
    if (i > 0 && (blank || !line.empty())) out += margin;
    out += line;
    in.budget.spend((margin.size() + line.size()) / 16 + 1);
  }
  return Value(std::move(out), v.str()->markup);
}

Value escape(Interpreter& in, const Value& v, const Args& args) {
  bind(in.budget, "escape", args, {});
  if (v.str() && v.str()->markup) return v;
  const std::string text = to_str(in.budget, v);
  in.budget.spend(text.size() / 4 + 1);
  return Value(html_escape(text), true);
}

Value format_text(Interpreter& in, const Value& v, const Args& args) {
  if (!args.named.empty()) in.budget.raise("format: keyword arguments are not supported");
  return Value(percent_format(in.budget, to_str(in.budget, v),
                              make_sequence(in.budget, args.positional, Sequence::kTuple)));
}

const std::unordered_map<std::string_view, Filter>& table() {
  static const std::unordered_map<std::string_view, Filter> kTable = {
      {"tojson", [](Interpreter& in, const Value& v,
                    const Args& a) { return Value(to_json(in.budget, v, a)); }},
      {"safe", [](Interpreter& in, const Value& v,
                  const Args&) { return Value(to_str(in.budget, v), true); }},
      {"string", [](Interpreter& in, const Value& v, const Args&) { return soft(in.budget, v); }},
      {"upper", [](Interpreter& in, const Value& v, const Args&) { return changed(in, v, upper); }},
      {"lower", [](Interpreter& in, const Value& v, const Args&) { return changed(in, v, lower); }},
      {"capitalize",
       [](Interpreter& in, const Value& v, const Args&) { return changed(in, v, capitalize); }},
      {"title",
       [](Interpreter& in, const Value& v, const Args&) { return changed(in, v, jinja_title); }},
      {"attr",
       [](Interpreter& in, const Value& v, const Args& args) {
         const auto a = bind(in.budget, "attr", args, {"name"});
         if (v.dict()) return method(in, v, a[0] ? to_str(in.budget, *a[0]) : "");
         return attribute(in, v, a[0] ? to_str(in.budget, *a[0]) : "");
       }},
      {"trim", trim},
      {"length", length_of},
      {"count", length_of},
      {"default", default_value},
      {"d", default_value},
      {"replace", replace},
      {"int", to_integer},
      {"float", to_real},
      {"abs", absolute},
      {"round", round_number},
      {"indent", indent},
      {"escape", escape},
      {"e", escape},
      {"format", format_text},
      {"items", items_of},
      {"join", join},
      {"list", list_of},
      {"map", map_items},
      {"first", first},
      {"last", last},
      {"sort", sort},
      {"unique", unique},
      {"reverse", reverse},
      {"dictsort", dictsort},
      {"min", minimum},
      {"max", maximum},
      {"sum", sum},
  };
  return kTable;
}

}  // namespace

Value apply_filter(Interpreter& in, const std::string& name, const Value& input, const Args& args) {
  in.budget.spend(1);
  if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr")
    return select(in, input, args, name[0] == 'r', name.ends_with("attr"));
  const auto it = table().find(name);
  if (it == table().end()) in.budget.raise("filter '{}' is not supported", name);
  return it->second(in, input, args);
}

}  // namespace qad::text::jinja
