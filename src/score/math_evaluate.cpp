// Values of trees. Recursion is as deep as the tree, which the parser bounds.
#include "score/math_evaluate.h"

#include <cfloat>
#include <cstdint>
#include <numbers>
#include <utility>

#include "core/random.h"

namespace qad::score::math {
namespace {

const Value& pi() {
  static const Value v = approximate(std::numbers::pi_v<long double>, 4 * LDBL_EPSILON);
  return v;
}

Maybe scaled(const Expr& e, const Value& factor, const Point& point, Budget& budget) {
  const auto v = evaluate(e, point, budget);
  return v ? multiply(*v, factor, budget) : std::nullopt;
}

std::uint64_t hash(const std::string& text) {
  std::uint64_t h = text.size();
  for (const char c : text) h = mix64(h ^ static_cast<unsigned char>(c));
  return h;
}

// A function that nobody defined: some smooth one that its name chooses.
Maybe unknown(const std::string& name, const std::vector<Value>& args, Budget& budget) {
  std::uint64_t h = hash(name);
  Maybe total = exact_value(mpq_class(h % 97, 97));
  for (const Value& x : args) {
    h = mix64(h);
    const auto term = multiply(x, exact_value(mpq_class(1 + h % 89, 61)), budget);
    total = term ? add(*total, *term, budget) : std::nullopt;
    if (!total) return std::nullopt;
  }
  return call("sin", {*total}, budget);
}

Maybe named(const Expr& e, const Point& point) {
  if (e.name == "pi") return pi();
  if (e.name == "e") return approximate(std::numbers::e_v<long double>, 4 * LDBL_EPSILON);
  if (e.name == "i") return exact_value(0, 1);
  const auto found = point.find(e.name);
  return found == point.end() ? std::nullopt : Maybe(found->second);
}

bool constant_name(const std::string& name) {
  return name == "pi" || name == "e" || name == "i" || name == "infinity" || name == "reals" ||
         name == "...";
}

}  // namespace

Maybe evaluate(const Expr& e, const Point& point, Budget& budget) {
  if (!budget.spend(1)) return std::nullopt;
  const auto each = [&](auto operation) -> Maybe {
    Maybe total = evaluate(e.args[0], point, budget);
    for (std::size_t i = 1; total && i < e.args.size(); ++i) {
      const auto next = evaluate(e.args[i], point, budget);
      total = next ? operation(*total, *next, budget) : std::nullopt;
    }
    return total;
  };
  switch (e.kind) {
    case Kind::kNumber:
    case Kind::kBased:
      return exact_value(e.number);
    case Kind::kName:
    case Kind::kText:
      return named(e, point);
    case Kind::kSum:
      return each(add);
    case Kind::kProduct:
      return each(multiply);
    case Kind::kQuotient:
      return each(divide);
    case Kind::kRatio:
      return e.args.size() == 2 ? each(divide) : std::nullopt;
    case Kind::kPower:
      if (e.args[0].kind == Kind::kName && e.args[0].name == "e") {
        const auto exponent = evaluate(e.args[1], point, budget);
        return exponent ? call("exp", {*exponent}, budget) : std::nullopt;
      }
      return each(power);
    case Kind::kNegative:
      return scaled(e.args[0], exact_value(-1), point, budget);
    case Kind::kPercent:
      return scaled(e.args[0], exact_value(mpq_class(1, 100)), point, budget);
    case Kind::kDegree: {
      const auto radian = divide(pi(), exact_value(180), budget);
      return radian ? scaled(e.args[0], *radian, point, budget) : std::nullopt;
    }
    case Kind::kUnit:
      return evaluate(e.args[0], point, budget);
    case Kind::kCall: {
      std::vector<Value> args;
      for (const Expr& arg : e.args) {
        const auto v = evaluate(arg, point, budget);
        if (!v) return std::nullopt;
        args.push_back(*v);
      }
      return is_function(e.name) ? call(e.name, args, budget) : unknown(e.name, args, budget);
    }
    default:
      return std::nullopt;
  }
}

bool names_of(const Expr& e, std::set<std::string>& names) {
  bool imaginary = e.kind == Kind::kName && e.name == "i";
  if ((e.kind == Kind::kName && !constant_name(e.name)) || e.kind == Kind::kText)
    names.insert(e.name);
  for (const Expr& arg : e.args) imaginary = names_of(arg, names) || imaginary;
  return imaginary;
}

Point sample(const std::set<std::string>& names, int k) {
  Point point;
  for (const std::string& name : names) {
    const std::uint64_t h = random_bits(hash(name), static_cast<std::uint64_t>(k));
    // Small, middling and large points in turn: functions have domains.
    const unsigned long range = k % 3 == 0 ? 15 : k % 3 == 1 ? 60 : 510;
    mpq_class value(1 + h % range, 16);
    value.canonicalize();
    if (k >= 4 && (h >> 40) % 2 == 1) value = -value;
    point[name] = exact_value(value);
  }
  return point;
}

bool same_formula(const Expr& a, const Expr& b, Budget& budget) {
  std::set<std::string> names;
  const bool left_i = names_of(a, names);
  const bool imaginary = names_of(b, names) || left_i;
  const int samples = names.empty() ? 1 : 12;
  const int needed = names.empty() ? 1 : 3;
  int equal = 0;
  int equal_complex = 0;
  bool differ_complex = false;
  bool any = false;
  for (int k = 0; k < samples; ++k) {
    const Point point = sample(names, k);
    const auto x = evaluate(a, point, budget);
    const auto y = evaluate(b, point, budget);
    any = any || x || y;
    if (!x || !y) continue;
    const Verdict verdict = compare(*x, *y);
    if (imaginary || names.empty() || (is_real(*x) && is_real(*y))) {
      if (verdict == Verdict::kDifferent) return false;
      equal += verdict == Verdict::kEqual;
    } else if (!is_real(*x) && !is_real(*y)) {
      equal_complex += verdict == Verdict::kEqual;
      differ_complex = differ_complex || verdict == Verdict::kDifferent;
    }
  }
  if (!any) return same_tree(a, b);
  return equal >= needed || (equal == 0 && !differ_complex && equal_complex >= needed);
}

namespace {

// b is the same multiple of a at every sample.
bool proportional(const Expr& a, const Expr& b, const std::set<std::string>& names, bool positive,
                  Budget& budget) {
  Maybe first_a;
  Maybe first_b;
  int equal = 0;
  for (int k = 0; k < 12; ++k) {
    const Point point = sample(names, k);
    const auto x = evaluate(a, point, budget);
    const auto y = evaluate(b, point, budget);
    if (!x || !y) continue;
    if (!first_a) {
      if (is_zero(*x) || is_zero(*y)) continue;
      first_a = x;
      first_b = y;
      const auto ratio = divide(*x, *y, budget);
      if (!ratio || (positive && order(*ratio, exact_value(0)) <= 0)) return false;
      continue;
    }
    const auto left = multiply(*x, *first_b, budget);
    const auto right = multiply(*y, *first_a, budget);
    if (!left || !right) continue;
    const Verdict verdict = compare(*left, *right);
    if (verdict == Verdict::kDifferent) return false;
    equal += verdict == Verdict::kEqual;
  }
  return equal >= 3 || (names.empty() && first_a);
}

// Where e = 0, if e is linear in `name` at this point of the others.
Maybe root(const Expr& e, const std::string& name, Point point, Budget& budget) {
  Maybe at[3];
  for (int i = 0; i < 3; ++i) {
    point[name] = exact_value(i + 1);
    at[i] = evaluate(e, point, budget);
    if (!at[i]) return std::nullopt;
  }
  const auto slope = subtract(*at[1], *at[0], budget);
  const auto next = subtract(*at[2], *at[1], budget);
  if (!slope || !next || is_zero(*slope) || compare(*slope, *next) != Verdict::kEqual)
    return std::nullopt;
  const auto steps = divide(*at[0], *slope, budget);
  return steps ? subtract(exact_value(1), *steps, budget) : std::nullopt;
}

}  // namespace

bool same_zeros(const Expr& a, const Expr& b, bool positive, Budget& budget) {
  std::set<std::string> names;
  names_of(a, names);
  names_of(b, names);
  if (proportional(a, b, names, positive, budget)) return true;
  if (positive || names.size() > 8) return false;
  for (const std::string& name : names) {
    int equal = 0;
    for (int k = 0; k < 6; ++k) {
      const Point point = sample(names, k);
      const auto x = root(a, name, point, budget);
      const auto y = root(b, name, point, budget);
      if (!x || !y || compare(*x, *y) != Verdict::kEqual) break;
      ++equal;
    }
    if (equal >= 4) return true;
  }
  return false;
}

bool same_tree(const Expr& a, const Expr& b) {
  if (a.kind != b.kind || a.name != b.name || a.number != b.number ||
      a.args.size() != b.args.size() || a.relations != b.relations || a.columns != b.columns) {
    return false;
  }
  for (std::size_t i = 0; i < a.args.size(); ++i) {
    if (!same_tree(a.args[i], b.args[i])) return false;
  }
  return true;
}

namespace {

void count_signs(const Expr& e, int& count, bool& together) {
  if (e.kind == Kind::kPlusMinus) {
    ++count;
    together = together || e.name == "mp";
  }
  for (const Expr& arg : e.args) count_signs(arg, count, together);
}

// Bit i of `signs` makes the i-th +- a minus; `together` makes bit 0 count for all.
Expr chosen(const Expr& e, unsigned signs, bool together, int& index) {
  Expr copy = e;
  copy.args.clear();
  bool minus = false;
  if (e.kind == Kind::kPlusMinus) {
    minus = ((signs >> (together ? 0 : index)) & 1) != 0;
    if (e.name == "mp") minus = !minus;
    ++index;
  }
  for (const Expr& arg : e.args) copy.args.push_back(chosen(arg, signs, together, index));
  if (e.kind != Kind::kPlusMinus) return copy;
  Expr last = std::move(copy.args.back());
  if (minus) last = node(Kind::kNegative, {std::move(last)});
  if (e.args.size() == 1) return last;
  return node(Kind::kSum, {std::move(copy.args[0]), std::move(last)});
}

}  // namespace

std::vector<Expr> both_signs(const Expr& e) {
  int count = 0;
  bool together = false;
  count_signs(e, count, together);
  if (count == 0 || count > 4) return {e};
  std::vector<Expr> variants;
  for (unsigned signs = 0; signs < (together ? 2U : 1U << count); ++signs) {
    int index = 0;
    variants.push_back(chosen(e, signs, together, index));
  }
  return variants;
}

}  // namespace qad::score::math
