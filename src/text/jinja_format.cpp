// json.dumps as Transformers' tojson calls it, and Python's % formatting.
#include <algorithm>
#include <cmath>

#include "text/jinja_eval.h"
#include "text/jinja_text.h"

namespace qad::text::jinja {
namespace {

struct JsonStyle {
  bool ensure_ascii = false, sort_keys = false, pretty = false;
  std::string indent, item = ", ", key = ": ";
};

std::string json_float(double d) {
  if (std::isnan(d)) return "NaN";
  if (std::isinf(d)) return d < 0 ? "-Infinity" : "Infinity";
  return python_float(d);
}

std::string json_key(Budget& budget, const Value& v) {
  if (v.str()) return v.str()->text;
  if (v.none()) return "null";
  if (const auto* b = v.boolean()) return *b ? "true" : "false";
  if (v.integer()) return std::to_string(*v.integer());
  if (v.real()) return json_float(*v.real());
  budget.raise("tojson: keys must be text or numbers, found {}", type_name(v));
}

void dump(Budget& budget, const Value& v, const JsonStyle& style, int level, std::string& out) {
  budget.spend(1);
  if (out.size() > kMaxOutput) budget.raise("tojson: more than {} bytes", kMaxOutput);
  const auto new_line = [&](int depth) {
    if (!style.pretty) return;
    budget.spend(style.indent.size() * static_cast<std::size_t>(depth) / 16);
    out += '\n';
    for (int i = 0; i < depth; ++i) out += style.indent;
  };
  if (v.none()) {
    out += "null";
  } else if (const auto* b = v.boolean()) {
    out += *b ? "true" : "false";
  } else if (v.integer()) {
    out += std::to_string(*v.integer());
  } else if (v.real()) {
    out += json_float(*v.real());
  } else if (const auto* s = v.str()) {
    budget.spend(s->text.size() / 8);
    out += json_quote(s->text, style.ensure_ascii);
  } else if (const auto* list = v.sequence(); list && list->kind <= Sequence::kTuple) {
    out += '[';
    for (std::size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) out += style.item;
      new_line(level + 1);
      dump(budget, list->items[i], style, level + 1, out);
    }
    if (!list->items.empty()) new_line(level);
    out += ']';
  } else if (const auto* dict = v.dict()) {
    auto items = dict->items;
    if (style.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [&](const auto& a, const auto& b) {
        return compare(budget, a.first, b.first) < 0;
      });
    }
    out += '{';
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += style.item;
      new_line(level + 1);
      out += json_quote(json_key(budget, items[i].first), style.ensure_ascii) + style.key;
      dump(budget, items[i].second, style, level + 1, out);
    }
    if (!items.empty()) new_line(level);
    out += '}';
  } else {
    budget.raise("tojson: object of type {} is not JSON serializable", type_name(v));
  }
}

}  // namespace

std::string to_json(Budget& budget, const Value& v, const Args& args) {
  const auto a =
      bind(budget, "tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = a[0] && truth(*a[0]);
  style.sort_keys = a[3] && truth(*a[3]);
  if (a[1] && !a[1]->none()) {
    style.pretty = true;
    style.item = ",";
    if (a[1]->str())
      style.indent = a[1]->str()->text;
    else
      style.indent.assign(static_cast<std::size_t>(
                              std::clamp<std::int64_t>(to_int(budget, "indent", *a[1]), 0, 100)),
                          ' ');
  }
  if (a[2] && !a[2]->none()) {
    const auto pair = iterate(budget, *a[2]);
    if (pair->items.size() != 2 || !pair->items[0].str() || !pair->items[1].str())
      budget.raise("tojson: separators must be two strings");
    style.item = pair->items[0].str()->text;
    style.key = pair->items[1].str()->text;
  }
  std::string out;
  dump(budget, v, style, 0, out);
  return out;
}

std::string percent_format(Budget& budget, const std::string& format, const Value& argument) {
  const auto* tuple = argument.sequence() && argument.sequence()->kind == Sequence::kTuple
                          ? argument.sequence()
                          : nullptr;
  const std::size_t given = tuple ? tuple->items.size() : 1;
  std::size_t used = 0;
  std::string out;
  for (std::size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    int precision = -1;
    if (++i < format.size() && format[i] == '.') {
      precision = 0;
      while (++i < format.size() && format[i] >= '0' && format[i] <= '9' && precision < 100)
        precision = precision * 10 + (format[i] - '0');
    }
    if (i >= format.size()) budget.raise("incomplete format '{}'", format);
    const char kind = format[i];
    if (kind == '%') {
      out += '%';
      continue;
    }
    if (used >= given) budget.raise("not enough arguments for format '{}'", format);
    const Value& v = tuple ? tuple->items[used] : argument;
    ++used;
    if (kind == 's' && precision < 0) {
      out += to_str(budget, v);
    } else if (kind == 'r' && precision < 0) {
      out += repr(budget, v);
    } else if ((kind == 'd' || kind == 'i') && precision < 0 && v.as_double()) {
      out += v.as_int() ? std::to_string(*v.as_int())
                        : fmt::format("{:.0f}", std::trunc(*v.as_double()));
    } else if (kind == 'f' && v.as_double()) {
      out += fmt::format("{:.{}f}", *v.as_double(), precision < 0 ? 6 : std::min(precision, 100));
    } else {
      budget.raise("format '%{}' of a {} is not supported", kind, type_name(v));
    }
    budget.spend(out.size() / 16 + 1);
  }
  if (used < given && !argument.dict())
    budget.raise("not all arguments converted by format '{}'", format);
  return out;
}

}  // namespace qad::text::jinja
