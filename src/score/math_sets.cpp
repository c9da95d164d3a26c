// Sets of real numbers, kept as sorted intervals that do not touch.
#include "score/math_sets.h"

#include <algorithm>
#include <set>

#include "score/math_evaluate.h"

namespace qad::score::math {
namespace {

using Intervals = std::vector<Interval>;

int order_ends(int a_infinite, const Value& a, int b_infinite, const Value& b) {
  if (a_infinite != 0 || b_infinite != 0)
    return a_infinite < b_infinite ? -1 : a_infinite > b_infinite;
  return order(a, b);
}

bool empty(const Interval& i) {
  const int o = order_ends(i.low_infinite, i.low, i.high_infinite, i.high);
  return o > 0 || (o == 0 && !(i.low_closed && i.high_closed));
}

Intervals normal(Intervals all) {
  std::erase_if(all, empty);
  std::stable_sort(all.begin(), all.end(), [](const Interval& a, const Interval& b) {
    const int o = order_ends(a.low_infinite, a.low, b.low_infinite, b.low);
    return o != 0 ? o < 0 : a.low_closed && !b.low_closed;
  });
  Intervals result;
  for (Interval& next : all) {
    if (!result.empty()) {
      Interval& last = result.back();
      const int gap = order_ends(last.high_infinite, last.high, next.low_infinite, next.low);
      if (gap > 0 || (gap == 0 && (last.high_closed || next.low_closed))) {
        const int ends = order_ends(last.high_infinite, last.high, next.high_infinite, next.high);
        if (ends == 0) last.high_closed = last.high_closed || next.high_closed;
        if (ends < 0) {
          last.high = next.high;
          last.high_infinite = next.high_infinite;
          last.high_closed = next.high_closed;
        }
        continue;
      }
    }
    result.push_back(std::move(next));
  }
  return result;
}

Intervals intersection(const Intervals& a, const Intervals& b) {
  Intervals result;
  for (const Interval& x : a) {
    for (const Interval& y : b) {
      const int lows = order_ends(x.low_infinite, x.low, y.low_infinite, y.low);
      const int highs = order_ends(x.high_infinite, x.high, y.high_infinite, y.high);
      Interval both = lows >= 0 ? x : y;
      const Interval& end = highs <= 0 ? x : y;
      if (lows == 0) both.low_closed = x.low_closed && y.low_closed;
      both.high_closed = highs == 0 ? x.high_closed && y.high_closed : end.high_closed;
      both.high = end.high;
      both.high_infinite = end.high_infinite;
      result.push_back(std::move(both));
    }
  }
  return normal(std::move(result));
}

Interval everything() {
  Interval all;
  all.low_infinite = -1;
  all.high_infinite = 1;
  return all;
}

Intervals complement(const Intervals& a) {
  Intervals result;
  Interval gap = everything();
  for (const Interval& x : a) {
    gap.high = x.low;
    gap.high_infinite = x.low_infinite;
    gap.high_closed = !x.low_closed && x.low_infinite == 0;
    if (x.low_infinite != -1) result.push_back(gap);
    gap = everything();
    gap.low = x.high;
    gap.low_infinite = x.high_infinite;
    gap.low_closed = !x.high_closed && x.high_infinite == 0;
    if (x.high_infinite == 1) return normal(std::move(result));
  }
  result.push_back(gap);
  return normal(std::move(result));
}

bool set_end(const Expr& e, int& infinite, Value& value, Budget& budget) {
  const bool negative = e.kind == Kind::kNegative;
  const Expr& inner = negative ? e.args[0] : e;
  if (inner.kind == Kind::kName && inner.name == "infinity") {
    infinite = negative ? -1 : 1;
    return true;
  }
  std::set<std::string> names;
  names_of(e, names);
  if (!names.empty()) return false;
  const auto v = evaluate(e, {}, budget);
  if (!v || !is_real(*v)) return false;
  value = *v;
  return true;
}

std::optional<Intervals> interval(const Expr& low, const Expr& high, bool low_closed,
                                  bool high_closed, Budget& budget) {
  Interval i;
  if (!set_end(low, i.low_infinite, i.low, budget) ||
      !set_end(high, i.high_infinite, i.high, budget)) {
    return std::nullopt;
  }
  i.low_closed = low_closed && i.low_infinite == 0;
  i.high_closed = high_closed && i.high_infinite == 0;
  return normal({i});
}

// x < 5, 5 < x, x != 5, x = 5.
std::optional<Intervals> one_sided(const Expr& end, std::string_view sign, bool name_first,
                                   Budget& budget) {
  Interval point;
  if (!set_end(end, point.low_infinite, point.low, budget)) return std::nullopt;
  point.high = point.low;
  point.high_infinite = point.low_infinite;
  point.low_closed = point.high_closed = point.low_infinite == 0;
  if (sign == "=") return Intervals{point};
  if (sign == "!=") return complement({point});
  Interval i = everything();
  const bool below = sign.starts_with('<') == name_first;
  const bool closed = sign.ends_with('=') && point.low_infinite == 0;
  if (below) {
    i.high = point.low;
    i.high_infinite = point.low_infinite;
    i.high_closed = closed;
  } else {
    i.low = point.low;
    i.low_infinite = point.low_infinite;
    i.low_closed = closed;
  }
  return normal({i});
}

std::optional<RealSet> of_relation(const Expr& e, Budget& budget) {
  for (const std::string& sign : e.relations) {
    if (sign == "~" || (sign == "in" && e.args.size() != 2)) return std::nullopt;
  }
  if (e.relations[0] == "in") {
    auto inside = real_set(e.args[1], budget);
    const auto variable = name_of(e.args[0]);
    if (inside && variable) inside->variable = *variable;
    return variable ? inside : std::nullopt;
  }
  std::optional<Intervals> result;
  std::size_t at = e.args.size();
  std::set<std::string> names;
  for (std::size_t i = 0; i < e.args.size(); ++i) {
    names.clear();
    names_of(e.args[i], names);
    if (names.empty()) continue;
    if (at != e.args.size()) return std::nullopt;
    at = i;
  }
  if (at == e.args.size() || e.args.size() > 3 || (e.args.size() == 3 && at != 1))
    return std::nullopt;
  const auto variable = name_of(e.args[at]);
  if (!variable) return std::nullopt;
  if (at > 0) result = one_sided(e.args[at - 1], e.relations[at - 1], false, budget);
  if (at + 1 < e.args.size()) {
    const auto right = one_sided(e.args[at + 1], e.relations[at], true, budget);
    if (!right || (at > 0 && !result)) return std::nullopt;
    result = result ? intersection(*result, *right) : *right;
  }
  if (!result) return std::nullopt;
  return RealSet{std::move(*result), *variable};
}

std::optional<RealSet> of_parts(const Expr& e, Budget& budget) {
  RealSet all;
  bool first = true;
  const bool inequalities = std::all_of(e.args.begin(), e.args.end(), [](const Expr& part) {
    return part.kind == Kind::kRelation && part.relations[0] != "=" && part.relations[0] != "in";
  });
  Intervals meet;
  for (const Expr& part : e.args) {
    const auto set = real_set(part, budget);
    if (!set || (!first && set->variable != all.variable)) return std::nullopt;
    all.variable = set->variable;
    if (e.kind == Kind::kDifference && !first) {
      all.intervals = intersection(all.intervals, complement(set->intervals));
    } else if (e.kind == Kind::kIntersection && !first) {
      all.intervals = intersection(all.intervals, set->intervals);
    } else {
      all.intervals.insert(all.intervals.end(), set->intervals.begin(), set->intervals.end());
      all.intervals = normal(std::move(all.intervals));
    }
    meet = first ? set->intervals : intersection(meet, set->intervals);
    first = false;
  }
  // "x > 2 and x < 5" is both; "x < 2 and x > 5" would be nothing and means either.
  const bool both = e.kind == Kind::kList && inequalities && e.name != "or" && !meet.empty();
  if (both) all.intervals = std::move(meet);
  return all;
}

}  // namespace

std::optional<RealSet> real_set(const Expr& e, Budget& budget) {
  if (!budget.spend(1)) return std::nullopt;
  RealSet result;
  switch (e.kind) {
    case Kind::kTuple: {
      if (e.args.size() != 2 || e.name == "<>") return std::nullopt;
      auto found = interval(e.args[0], e.args[1], e.name[0] == '[', e.name[1] == ']', budget);
      if (!found || found->empty()) return std::nullopt;  // (5, 2) is a point
      result.intervals = std::move(*found);
      return result;
    }
    case Kind::kSet: {
      for (const Expr& element : e.args) {
        auto point = interval(element, element, true, true, budget);
        if (!point) return std::nullopt;
        result.intervals.insert(result.intervals.end(), point->begin(), point->end());
      }
      result.intervals = normal(std::move(result.intervals));
      return result;
    }
    case Kind::kName:
      if (e.name != "reals") return std::nullopt;
      result.intervals = {everything()};
      return result;
    case Kind::kUnion:
    case Kind::kIntersection:
    case Kind::kDifference:
    case Kind::kList:
      if (e.args.size() > 64) return std::nullopt;
      return of_parts(e, budget);
    case Kind::kRelation:
      return of_relation(e, budget);
    default:
      return std::nullopt;
  }
}

bool same_set(const RealSet& a, const RealSet& b) {
  if (!a.variable.empty() && !b.variable.empty() && a.variable != b.variable) return false;
  return std::equal(a.intervals.begin(), a.intervals.end(), b.intervals.begin(), b.intervals.end(),
                    [](const Interval& x, const Interval& y) {
                      return x.low_closed == y.low_closed && x.high_closed == y.high_closed &&
                             order_ends(x.low_infinite, x.low, y.low_infinite, y.low) == 0 &&
                             order_ends(x.high_infinite, x.high, y.high_infinite, y.high) == 0;
                    });
}

std::optional<std::string> name_of(const Expr& e) {
  std::string text;
  switch (e.kind) {
    case Kind::kText:
      return e.name;
    case Kind::kName:
      if (e.name == "pi" || e.name == "infinity" || e.name == "reals") return std::nullopt;
      return e.name;
    case Kind::kProduct:
      for (const Expr& factor : e.args) {
        if (factor.kind != Kind::kName && factor.kind != Kind::kText) return std::nullopt;
        text += factor.name;
      }
      return text;
    case Kind::kCall:
      if (is_function(e.name)) return std::nullopt;
      text = e.name;
      for (const Expr& arg : e.args) {
        const auto part = name_of(arg);
        text += "," + (part ? *part : arg.number.get_str());
      }
      return text;
    case Kind::kTuple:
      for (const Expr& arg : e.args) {
        const auto part = name_of(arg);
        if (!part) return std::nullopt;
        text += "," + *part;
      }
      return text;
    default:
      return std::nullopt;
  }
}

}  // namespace qad::score::math
