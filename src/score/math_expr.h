// What a mathematical answer says, as a tree: numbers and formulas, and what holds them in answers:
// tuples and intervals, lists and sets, matrices, relations, ratios, units and words.
#pragma once

#include <gmpxx.h>

#include <string>
#include <utility>
#include <vector>

namespace qad::score::math {

enum class Kind {
  kNumber,     // number; name: the literal as written when it has a decimal point, else empty
  kBased,      // number; name: digits and base as written, "204_5"
  kName,       // name: a variable; or "pi", "e", "i", "infinity", "reals", "..."
  kText,       // name: words
  kSum,        // args
  kProduct,    // args
  kNegative,   // args[0]
  kQuotient,   // args[0] / args[1]
  kPower,      // args[0] ^ args[1]
  kPlusMinus,  // args[0] +- args[1], or +- args[0]; name "pm", or "mp" for -+
  kCall,       // name(args); a function that is not known has its name and any value
  kPercent,    // args[0] percent
  kDegree,     // args[0] degrees
  kUnit,       // args[0] in the unit `name` ("cm^2", "dollars")
  kTuple,  // args in the brackets `name`: "()", "[]", "(]", "[)" or "<>"; two may be an interval
  kList,   // args, order of no matter; name "and" or "or" if such a word stood between them
  kSet,    // args in braces
  kUnion,  // args
  kIntersection,  // args
  kDifference,    // args[0] without args[1]
  kMatrix,        // args by rows, `columns` of them in each
  kRelation,      // args[0] r[0] args[1] r[1] ...: relations[i] is one of = ~ != < <= > >= in
  kRatio,         // args[0] : args[1] : ...
};

struct Expr {
  Kind kind = Kind::kNumber;
  std::string name;
  mpq_class number;
  std::vector<Expr> args;
  std::vector<std::string> relations;
  int columns = 0;
};

inline Expr node(Kind kind, std::vector<Expr> args, std::string name = {}) {
  Expr e;
  e.kind = kind;
  e.name = std::move(name);
  e.args = std::move(args);
  return e;
}

inline Expr number(mpq_class value) {
  Expr e;
  e.number = std::move(value);
  return e;
}

inline Expr name(std::string text) {
  return node(Kind::kName, {}, std::move(text));
}

}  // namespace qad::score::math
