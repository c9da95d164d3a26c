// What it takes for two answers to say the same, by the kinds of their trees.
#include "score/math_compare.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "score/math_evaluate.h"
#include "score/math_lexer.h"
#include "score/math_sets.h"
#include "score/math_words.h"

namespace qad::score::math {
namespace {

class Comparison {
 public:
  bool same(const Expr& r, const Expr& a);

 private:
  bool same_relation(const Expr& r, const Expr& a);
  bool value_is(const Expr& relation, const Expr& value, bool reference);
  bool same_equation(const Expr& r, const Expr& a);
  bool same_items(const Expr& r, const Expr& a);
  bool same_in_order(const std::vector<Expr>& r, const std::vector<Expr>& a);
  bool same_tuple(const Expr& r, const Expr& a);
  bool same_quantity(const Expr& r, const Expr& a);
  bool same_ratio(const Expr& r, const Expr& a, bool clock);
  bool same_residue(const Expr& r, const Expr& a);
  bool same_number(const Expr& r, const Expr& a);
  bool rounds_to(const Expr& decimal, const Expr& exact);

  Budget budget_;
};

bool is(const Expr& e, Kind kind) {
  return e.kind == kind;
}

bool has(const Expr& e, Kind kind) {
  return is(e, kind) || std::any_of(e.args.begin(), e.args.end(),
                                    [kind](const Expr& arg) { return has(arg, kind); });
}

bool is_collection(const Expr& e) {
  return is(e, Kind::kList) || is(e, Kind::kSet);
}

// Whether `e` can only be a set of real numbers.
bool is_real_set(const Expr& e) {
  return is(e, Kind::kUnion) || is(e, Kind::kIntersection) || is(e, Kind::kDifference) ||
         (is(e, Kind::kName) && e.name == "reals") ||
         (is(e, Kind::kTuple) && e.args.size() == 2 && (e.name == "(]" || e.name == "[)"));
}

bool is_inequality(const Expr& e) {
  return is(e, Kind::kRelation) && e.relations[0] != "=" && e.relations[0] != "~" &&
         e.relations[0] != "in";
}

// Whether `e` is such a set, or a list with one in it (x < 2 or x > 5).
bool says_set(const Expr& e) {
  return is_real_set(e) || is_inequality(e) ||
         (is(e, Kind::kList) && std::any_of(e.args.begin(), e.args.end(), says_set));
}

std::optional<std::string> letters(const Expr& e) {
  const auto text = name_of(e);
  return text && e.kind != Kind::kTuple ? std::optional(plain_words(*text)) : std::nullopt;
}

std::string without_spaces(std::string text) {
  std::erase(text, ' ');
  return text;
}

bool real_numbers_in_words(const Expr& e) {
  if (!is(e, Kind::kText)) return false;
  const std::string words = plain_words(e.name);
  return words == "all real numbers" || words == "all reals" || words == "real numbers" ||
         words == "all real";
}

// The elements that a list, a set or one formula with +- stands for.
std::vector<Expr> items(const Expr& e) {
  std::vector<Expr> all;
  if (!is_collection(e)) return both_signs(e);
  for (const Expr& part : e.args) {
    for (Expr& variant : both_signs(part)) all.push_back(std::move(variant));
  }
  return all;
}

// A scalar times a matrix, or a matrix over one, as the matrix of products.
std::optional<Expr> as_matrix(const Expr& e) {
  if (is(e, Kind::kMatrix)) return e;
  Expr scalar = number(1);
  const Expr* matrix = nullptr;
  if (is(e, Kind::kProduct)) {
    std::vector<Expr> others;
    for (const Expr& factor : e.args) {
      if (!is(factor, Kind::kMatrix)) {
        others.push_back(factor);
      } else if (std::exchange(matrix, &factor) != nullptr) {
        return std::nullopt;
      }
    }
    scalar = node(Kind::kProduct, std::move(others));
  } else if ((is(e, Kind::kNegative) || is(e, Kind::kQuotient)) && is(e.args[0], Kind::kMatrix)) {
    matrix = &e.args[0];
    scalar = is(e, Kind::kNegative) ? number(-1) : node(Kind::kQuotient, {number(1), e.args[1]});
  }
  if (matrix == nullptr) return std::nullopt;
  Expr product = *matrix;
  for (Expr& element : product.args) element = node(Kind::kProduct, {scalar, std::move(element)});
  return product;
}

// "52_8" with its sign, for a reading without the base: the question named it.
std::optional<std::string> digits_of(const Expr& e) {
  if (is(e, Kind::kNegative)) {
    const auto inner = digits_of(e.args[0]);
    return inner ? std::optional("-" + *inner) : std::nullopt;
  }
  if (is(e, Kind::kBased)) return e.name.substr(0, e.name.find('_'));
  if (is(e, Kind::kNumber) && e.name.empty()) return e.number.get_str();
  return std::nullopt;
}

const Expr& unsigned_part(const Expr& e) {
  return is(e, Kind::kNegative) ? e.args[0] : e;
}

Expr difference(const Expr& a, const Expr& b) {
  return node(Kind::kSum, {a, node(Kind::kNegative, {b})});
}

bool Comparison::same(const Expr& r, const Expr& a) {
  if (!budget_.spend(8)) return false;
  if (real_numbers_in_words(r)) return same(name("reals"), a);
  if (real_numbers_in_words(a)) return same(r, name("reals"));
  const bool tuples = is(r, Kind::kTuple) && is(a, Kind::kTuple);
  if (!tuples && (says_set(r) || says_set(a))) {
    const auto left = real_set(r, budget_);
    const auto right = real_set(a, budget_);
    if (left && right) return same_set(*left, *right);
  }
  const bool relations = is(r, Kind::kRelation) || is(a, Kind::kRelation);
  if (relations && !is_collection(r) && !is_collection(a)) return same_relation(r, a);
  if (is_collection(r) || is_collection(a) || has(r, Kind::kPlusMinus) ||
      has(a, Kind::kPlusMinus)) {
    return same_items(r, a);
  }
  if (is(r, Kind::kUnion) && is(a, Kind::kUnion)) {  // of intervals with variables in them
    return same_items(node(Kind::kSet, r.args), node(Kind::kSet, a.args));
  }
  const auto left = as_matrix(r);
  const auto right = as_matrix(a);
  if (left && right) {
    return left->columns == right->columns && same_in_order(left->args, right->args);
  }
  if (left || right) {
    const Expr& matrix = left ? *left : *right;
    const Expr& tuple = left ? a : r;
    const bool vector =
        matrix.columns == 1 || matrix.args.size() == static_cast<std::size_t>(matrix.columns);
    if (is(tuple, Kind::kTuple)) return vector && same_in_order(matrix.args, tuple.args);
    return matrix.args.size() == 1 && same(matrix.args[0], tuple);
  }
  if (is(r, Kind::kTuple) || is(a, Kind::kTuple)) return same_tuple(r, a);
  return same_quantity(r, a);
}

bool Comparison::same_in_order(const std::vector<Expr>& r, const std::vector<Expr>& a) {
  return std::equal(r.begin(), r.end(), a.begin(), a.end(),
                    [this](const Expr& x, const Expr& y) { return same(x, y); });
}

bool Comparison::same_tuple(const Expr& r, const Expr& a) {
  if (!is(r, Kind::kTuple) || !is(a, Kind::kTuple)) return false;
  // Of two elements [1, 2] may be an interval, and (1, 2) another one.
  const bool interval = r.args.size() == 2 && r.name != "<>" && a.name != "<>";
  if (interval && r.name != a.name) return false;
  return same_in_order(r.args, a.args);
}

// Lists and sets by their elements, in any order; lists with how often each occurs. A list without
// brackets also is the tuple with its elements.
bool Comparison::same_items(const Expr& r, const Expr& a) {
  if (is(r, Kind::kTuple) && is(a, Kind::kList)) return same_in_order(r.args, a.args);
  if (is(r, Kind::kList) && is(a, Kind::kTuple)) return same_in_order(r.args, a.args);
  std::vector<Expr> left = items(r);
  std::vector<Expr> right = items(a);
  const bool sets = is(r, Kind::kSet) || is(a, Kind::kSet);
  if (!sets && left.size() != right.size()) return false;
  std::vector<bool> used(right.size());
  for (const Expr& x : left) {
    bool found = false;
    for (std::size_t j = 0; j < right.size() && !(found && !sets); ++j) {
      if (used[j] || !same(x, right[j])) continue;
      used[j] = true;
      found = true;
    }
    // In a set a second copy of an element finds its partner taken.
    if (!found && sets) {
      found = std::any_of(right.begin(), right.end(), [&](const Expr& y) { return same(x, y); });
    }
    if (!found) return false;
  }
  return std::all_of(used.begin(), used.end(), [](bool u) { return u; });
}

bool Comparison::same_relation(const Expr& r, const Expr& a) {
  if (!is(a, Kind::kRelation)) return value_is(r, a, true);
  if (!is(r, Kind::kRelation)) return value_is(a, r, false);
  if (r.relations[0] == "in" && a.relations[0] == "in") {
    return same(r.args[0], a.args[0]) && same(r.args.back(), a.args.back());
  }
  if (r.args.size() == 2 && a.args.size() == 2) return same_equation(r, a);
  // Chains: x = 2 + 3 = 5.
  const bool chain = std::all_of(r.relations.begin(), r.relations.end(),
                                 [](const std::string& s) { return s == "=" || s == "~"; });
  if (chain && name_of(r.args[0]) == name_of(a.args[0])) return value_is(a, r.args.back(), false);
  return r.relations == a.relations && same_in_order(r.args, a.args);
}

// x = 5 says 5, and so do 5 = x, x = 2 + 3 = 5 and 10/2 = 5; x in S says S.
bool Comparison::value_is(const Expr& relation, const Expr& value, bool reference) {
  if (relation.relations[0] == "in")
    return name_of(relation.args[0]) && same(relation.args[1], value);
  if (is_inequality(relation)) return false;
  const bool named = name_of(relation.args[0]).has_value();
  if (!named && relation.args.size() == 2 && name_of(relation.args[1])) {
    return same(relation.args[0], value);
  }
  std::set<std::string> names;
  if (!named) names_of(relation.args[0], names);
  if (!names.empty()) return false;  // an equation, not a definition
  const bool approximate = std::find(relation.relations.begin(), relation.relations.end(), "~") !=
                           relation.relations.end();
  const auto says = [&](const Expr& side) {
    return reference ? same(side, value) : same(value, side);
  };
  const auto first = relation.args.begin() + (named ? 1 : 0);
  return approximate ? std::any_of(first, relation.args.end(), says)
                     : std::all_of(first, relation.args.end(), says);
}

bool Comparison::same_equation(const Expr& r, const Expr& a) {
  const std::string& sign = r.relations[0];
  const auto less = [](const std::string& s) { return s[0] == '<' || s[0] == '>'; };
  if (less(sign) != less(a.relations[0])) return false;
  if (less(sign)) {
    if (sign.size() != a.relations[0].size()) return false;
    const auto below = [](const Expr& e) {
      return e.relations[0][0] == '<' ? difference(e.args[0], e.args[1])
                                      : difference(e.args[1], e.args[0]);
    };
    return same_zeros(below(r), below(a), true, budget_);
  }
  const auto equal = [](const std::string& s) { return s == "=" || s == "~"; };
  if (equal(sign) != equal(a.relations[0])) return false;
  for (const bool swapped : {false, true}) {
    const Expr& left = a.args[swapped ? 1 : 0];
    const Expr& right = a.args[swapped ? 0 : 1];
    if (name_of(r.args[0]) && name_of(r.args[0]) == name_of(left) && same(r.args[1], right))
      return true;
  }
  return same_zeros(difference(r.args[0], r.args[1]), difference(a.args[0], a.args[1]), false,
                    budget_);
}

// Numbers and formulas with what stands at them: percent, degrees, units, bases, words.
bool Comparison::same_quantity(const Expr& r, const Expr& a) {
  if (is(r, Kind::kUnit) || is(a, Kind::kUnit)) {
    const auto left = is(r, Kind::kUnit) ? unit_of(r.name) : std::nullopt;
    const auto right = is(a, Kind::kUnit) ? unit_of(a.name) : std::nullopt;
    const Expr& x = is(r, Kind::kUnit) ? r.args[0] : r;
    const Expr& y = is(a, Kind::kUnit) ? a.args[0] : a;
    if (left && right && left->powers != right->powers) return false;
    if (is(x, Kind::kRatio) && is(y, Kind::kRatio)) return same_ratio(x, y, true);
    if (!left || !right || left->factor == right->factor) return same(x, y);
    return same(node(Kind::kProduct, {x, number(left->factor)}),
                node(Kind::kProduct, {y, number(right->factor)}));
  }
  for (const Kind sign : {Kind::kPercent, Kind::kDegree}) {
    if (is(unsigned_part(r), sign) == is(unsigned_part(a), sign)) continue;
    // 50 percent is 1/2, and 50, where a percentage was asked for; but 0.1 percent is not 0.1.
    const auto bare = [sign](const Expr& e) {
      if (!is(unsigned_part(e), sign)) return e;
      return is(e, Kind::kNegative) ? node(Kind::kNegative, {e.args[0].args[0]}) : e.args[0];
    };
    const auto size = evaluate(bare(r), {}, budget_);
    const bool small = size && std::abs(size->z) < 1;
    if (!(small && sign == Kind::kPercent) && same_number(bare(r), bare(a))) return true;
  }
  if (is(unsigned_part(r), Kind::kBased) || is(unsigned_part(a), Kind::kBased)) {
    const bool both = is(unsigned_part(r), Kind::kBased) && is(unsigned_part(a), Kind::kBased);
    const auto x = digits_of(r);
    if (!both && x && x == digits_of(a)) return true;
  }
  if (is(r, Kind::kRatio) && is(a, Kind::kRatio)) return same_ratio(r, a, false);
  const auto residue = [](const Expr& e) {
    return is(e, Kind::kCall) && e.name == "mod" && e.args.size() == 2;
  };
  if (residue(r) || residue(a)) return same_residue(r, a);
  if (is(r, Kind::kText) || is(a, Kind::kText)) {
    const auto x = letters(r);
    const auto y = letters(a);
    if (x && y) return without_spaces(*x) == without_spaces(*y);
    const Expr& words = is(r, Kind::kText) ? r : a;
    const std::string plain = plain_words(words.name);
    const bool digits =
        !plain.empty() && plain.size() < 10 && std::all_of(plain.begin(), plain.end(), [](char c) {
          return std::isdigit(static_cast<unsigned char>(c)) != 0;
        });
    return digits && same(number(mpq_class(plain)), is(r, Kind::kText) ? a : r);
  }
  return same_number(r, a);
}

bool Comparison::same_ratio(const Expr& r, const Expr& a, bool clock) {
  if (r.args.size() != a.args.size()) return false;
  const auto zero = [](const Expr& e) { return is(e, Kind::kNumber) && e.number == 0; };
  clock = clock || std::any_of(r.args.begin(), r.args.end(), zero) ||
          std::any_of(a.args.begin(), a.args.end(), zero);
  if (clock) return same_in_order(r.args, a.args);
  for (std::size_t i = 1; i < r.args.size(); ++i) {
    if (!same_number(node(Kind::kProduct, {r.args[0], a.args[i]}),
                     node(Kind::kProduct, {r.args[i], a.args[0]}))) {
      return false;
    }
  }
  return true;
}

// 3 (mod 7) is 10 (mod 7), and 3.
bool Comparison::same_residue(const Expr& r, const Expr& a) {
  if (!is(r, Kind::kCall) || r.name != "mod") return same(r, a.args[0]);
  if (!is(a, Kind::kCall) || a.name != "mod") return same(r.args[0], a);
  if (!same(r.args[1], a.args[1])) return false;
  if (same(r.args[0], a.args[0])) return true;
  const auto turns =
      evaluate(node(Kind::kQuotient, {difference(r.args[0], a.args[0]), r.args[1]}), {}, budget_);
  return turns && turns->exact && turns->im == 0 && turns->re.get_den() == 1;
}

bool Comparison::same_number(const Expr& r, const Expr& a) {
  const auto infinite = [](const Expr& e) {
    const Expr& inner = unsigned_part(e);
    return is(inner, Kind::kName) && inner.name == "infinity";
  };
  if (infinite(r) || infinite(a))
    return infinite(r) && infinite(a) && is(r, Kind::kNegative) == is(a, Kind::kNegative);
  return same_formula(r, a, budget_) || rounds_to(r, a) || rounds_to(a, r);
}

// A decimal of six digits or more stands for the number it was rounded from or cut off, if that has
// no end.
bool Comparison::rounds_to(const Expr& decimal, const Expr& exact) {
  const Expr& literal = unsigned_part(decimal);
  if (!is(literal, Kind::kNumber) || literal.name.empty() ||
      literal.name.find('e') != std::string::npos)
    return false;
  const std::size_t point = literal.name.find('.');
  const std::size_t first = literal.name.find_first_not_of("0.");
  if (first == std::string::npos) return false;
  const std::size_t digits = literal.name.size() - first - (first < point ? 1 : 0);
  std::set<std::string> names;
  names_of(exact, names);
  if (digits < 6 || !names.empty()) return false;
  const auto value = evaluate(exact, {}, budget_);
  if (!value || !is_real(*value)) return false;
  if (value->exact) {
    mpz_class rest = value->re.get_den();
    for (const unsigned long prime : {2UL, 5UL}) {
      const mpz_class p = prime;
      mpz_remove(rest.get_mpz_t(), rest.get_mpz_t(), p.get_mpz_t());
    }
    if (rest == 1) return false;
  }
  mpz_class scale;
  mpz_ui_pow_ui(scale.get_mpz_t(), 10, literal.name.size() - point - 1);
  const mpq_class written =
      is(decimal, Kind::kNegative) ? mpq_class(-literal.number) : literal.number;
  const auto off = subtract(*value, exact_value(written), budget_);
  const auto size = off ? call("abs", {*off}, budget_) : std::nullopt;
  return size && order(*size, exact_value(mpq_class(1, 1) / scale)) < 0;
}

}  // namespace

bool same_answer(const Expr& reference, const Expr& answer) {
  return Comparison().same(reference, answer);
}

}  // namespace qad::score::math
