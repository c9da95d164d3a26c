// Tables of words.
#include "score/math_words.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <vector>

namespace qad::score::math {
namespace {

struct Measure {
  enum { kLength, kTime, kMass, kMoney, kClock } base;
  int power;
  const char* factor;  // in base units
};

// Singular; a plural's "s" or "es" is taken off before.
const std::map<std::string_view, Measure>& measures() {
  static const std::map<std::string_view, Measure> table = {
      {"mm", {Measure::kLength, 1, "1/1000"}},
      {"millimeter", {Measure::kLength, 1, "1/1000"}},
      {"millimetre", {Measure::kLength, 1, "1/1000"}},
      {"cm", {Measure::kLength, 1, "1/100"}},
      {"centimeter", {Measure::kLength, 1, "1/100"}},
      {"centimetre", {Measure::kLength, 1, "1/100"}},
      {"m", {Measure::kLength, 1, "1"}},
      {"meter", {Measure::kLength, 1, "1"}},
      {"metre", {Measure::kLength, 1, "1"}},
      {"km", {Measure::kLength, 1, "1000"}},
      {"kilometer", {Measure::kLength, 1, "1000"}},
      {"kilometre", {Measure::kLength, 1, "1000"}},
      {"in", {Measure::kLength, 1, "254/10000"}},
      {"inch", {Measure::kLength, 1, "254/10000"}},
      {"ft", {Measure::kLength, 1, "3048/10000"}},
      {"foot", {Measure::kLength, 1, "3048/10000"}},
      {"feet", {Measure::kLength, 1, "3048/10000"}},
      {"yd", {Measure::kLength, 1, "9144/10000"}},
      {"yard", {Measure::kLength, 1, "9144/10000"}},
      {"mi", {Measure::kLength, 1, "1609344/1000"}},
      {"mile", {Measure::kLength, 1, "1609344/1000"}},
      {"acre", {Measure::kLength, 2, "40468564224/10000000"}},
      {"ml", {Measure::kLength, 3, "1/1000000"}},
      {"milliliter", {Measure::kLength, 3, "1/1000000"}},
      {"l", {Measure::kLength, 3, "1/1000"}},
      {"liter", {Measure::kLength, 3, "1/1000"}},
      {"litre", {Measure::kLength, 3, "1/1000"}},
      {"gallon", {Measure::kLength, 3, "3785411784/1000000000000"}},
      {"s", {Measure::kTime, 1, "1"}},
      {"sec", {Measure::kTime, 1, "1"}},
      {"second", {Measure::kTime, 1, "1"}},
      {"min", {Measure::kTime, 1, "60"}},
      {"minute", {Measure::kTime, 1, "60"}},
      {"h", {Measure::kTime, 1, "3600"}},
      {"hr", {Measure::kTime, 1, "3600"}},
      {"hour", {Measure::kTime, 1, "3600"}},
      {"day", {Measure::kTime, 1, "86400"}},
      {"week", {Measure::kTime, 1, "604800"}},
      {"mg", {Measure::kMass, 1, "1/1000000"}},
      {"milligram", {Measure::kMass, 1, "1/1000000"}},
      {"g", {Measure::kMass, 1, "1/1000"}},
      {"gram", {Measure::kMass, 1, "1/1000"}},
      {"kg", {Measure::kMass, 1, "1"}},
      {"kilogram", {Measure::kMass, 1, "1"}},
      {"lb", {Measure::kMass, 1, "45359237/100000000"}},
      {"pound", {Measure::kMass, 1, "45359237/100000000"}},
      {"oz", {Measure::kMass, 1, "45359237/1600000000"}},
      {"ounce", {Measure::kMass, 1, "45359237/1600000000"}},
      {"dollar", {Measure::kMoney, 1, "1"}},
      {"usd", {Measure::kMoney, 1, "1"}},
      {"buck", {Measure::kMoney, 1, "1"}},
      {"cent", {Measure::kMoney, 1, "1/100"}},
      {"am", {Measure::kClock, 1, "1"}},
      {"pm", {Measure::kClock, 2, "1"}},
  };
  return table;
}

const Measure* measure(std::string_view word) {
  const auto& table = measures();
  for (const std::size_t plural : {0, 1, 2}) {
    if (word.size() <= plural || (plural == 2 && !word.ends_with("es"))) break;
    if (plural == 1 && (!word.ends_with("s") || word.size() < 3)) break;
    const auto found = table.find(word.substr(0, word.size() - plural));
    if (found != table.end()) return &found->second;
  }
  return nullptr;
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

// "miles/hour" in words and the signs / ^ with digits; full stops (sq. units, p.m.) vanish.
std::vector<std::string> unit_words(std::string_view text) {
  std::vector<std::string> words;
  bool open = false;
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (c == '.' || c == '{' || c == '}' || c == '\\') continue;
    if (std::isalnum(u) != 0) {
      const bool joins =
          open && (std::isalpha(u) != 0) ==
                      (std::isalpha(static_cast<unsigned char>(words.back().back())) != 0);
      if (!joins) words.emplace_back();
      words.back() += static_cast<char>(std::tolower(u));
      open = true;
      continue;
    }
    open = false;
    if (c == '/' || c == '^') words.emplace_back(1, c);
  }
  return words;
}

}  // namespace

bool is_greek(std::string_view word) {
  static constexpr std::string_view kLetters[] = {
      "alpha",   "beta",  "gamma",  "delta", "epsilon", "varepsilon", "zeta",  "eta",   "theta",
      "iota",    "kappa", "lambda", "mu",    "nu",      "xi",         "rho",   "sigma", "tau",
      "upsilon", "phi",   "varphi", "chi",   "psi",     "omega",      "Gamma", "Delta", "Theta",
      "Lambda",  "Xi",    "Pi",     "Sigma", "Phi",     "Psi",        "Omega", "ell",   "vartheta"};
  return std::find(std::begin(kLetters), std::end(kLetters), word) != std::end(kLetters);
}

std::optional<std::string> function_name(std::string_view word) {
  static const std::map<std::string_view, std::string_view> table = {
      {"sin", "sin"},       {"cos", "cos"},     {"tan", "tan"},       {"cot", "cot"},
      {"sec", "sec"},       {"csc", "csc"},     {"arcsin", "arcsin"}, {"arccos", "arccos"},
      {"arctan", "arctan"}, {"asin", "arcsin"}, {"acos", "arccos"},   {"atan", "arctan"},
      {"sinh", "sinh"},     {"cosh", "cosh"},   {"tanh", "tanh"},     {"exp", "exp"},
      {"ln", "ln"},         {"log", "log"},     {"lg", "log"},        {"gcd", "gcd"},
      {"lcm", "lcm"},       {"max", "max"},     {"min", "min"},       {"sqrt", "sqrt"},
      {"floor", "floor"},   {"ceil", "ceil"},   {"abs", "abs"}};
  const auto found = table.find(word);
  if (found == table.end()) return std::nullopt;
  return std::string(found->second);
}

bool is_unit_word(std::string_view word) {
  const std::string w = lower(word);
  return measure(w) != nullptr || w == "mph" || w == "sq" || w == "square" || w == "cubic" ||
         w == "units" || w == "unit" || w == "degrees" || w == "degree" || w == "percent" ||
         w == "rad" || w == "radians";
}

std::optional<Unit> unit_of(std::string_view text) {
  Unit unit;
  int sign = 1;
  int prefix = 1;
  bool any = false;
  const Measure* last = nullptr;
  int last_sign = 1;
  const auto multiply = [&unit](const Measure& m, int times) {
    unit.powers[m.base] += m.power * times;
    mpq_class factor(m.factor);
    factor.canonicalize();
    for (int i = 0; i < std::abs(times); ++i) {
      if (times > 0) {
        unit.factor *= factor;
      } else {
        unit.factor /= factor;
      }
    }
  };
  const auto words = unit_words(text);
  if (words.size() > 12) return std::nullopt;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "per" || word == "/") {
      sign = -1;
    } else if (word == "sq" || word == "square" || word == "squared") {
      if (word == "squared" && last != nullptr) {
        multiply(*last, last_sign);
      } else {
        prefix = 2;
      }
    } else if (word == "cubic" || word == "cu") {
      prefix = 3;
    } else if (word == "^" && i + 1 < words.size() && last != nullptr &&
               (words[i + 1] == "2" || words[i + 1] == "3")) {
      multiply(*last, last_sign * (words[++i] == "2" ? 1 : 2));
    } else if (word == "mph") {
      multiply(*measure("mile"), 1);
      multiply(*measure("hour"), -1);
      any = true;
    } else if (const Measure* m = measure(word)) {
      if (m->base == Measure::kClock && any) return std::nullopt;
      multiply(*m, sign * prefix);
      last = m;
      last_sign = sign;
      sign = 1;
      prefix = 1;
      any = true;
    } else {
      return std::nullopt;
    }
  }
  if (!any) return std::nullopt;
  return unit;
}

std::optional<int> number_of_word(std::string_view word) {
  static constexpr std::string_view kWords[] = {
      "zero",     "one",     "two",     "three",     "four",     "five",     "six",
      "seven",    "eight",   "nine",    "ten",       "eleven",   "twelve",   "thirteen",
      "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"};
  const auto found = std::find(std::begin(kWords), std::end(kWords), word);
  if (found == std::end(kWords)) return std::nullopt;
  return static_cast<int>(found - std::begin(kWords));
}

}  // namespace qad::score::math
