// The functions that formulas name. Each is a value and a derivative, by which the argument's error
// becomes the result's.
#include <cfloat>
#include <cmath>
#include <map>
#include <string>

#include "score/math_value.h"

namespace qad::score::math {
namespace {

using Complex = std::complex<long double>;
constexpr long double kUnit = 16 * LDBL_EPSILON;

struct Function {
  Complex (*value)(Complex);
  Complex (*derivative)(Complex);
};

const std::map<std::string, Function, std::less<>>& analytic() {
  static const std::map<std::string, Function, std::less<>> table = {
      {"sin", {[](Complex z) { return std::sin(z); }, [](Complex z) { return std::cos(z); }}},
      {"cos", {[](Complex z) { return std::cos(z); }, [](Complex z) { return std::sin(z); }}},
      {"tan",
       {[](Complex z) { return std::tan(z); },
        [](Complex z) { return 1.0L / (std::cos(z) * std::cos(z)); }}},
      {"cot",
       {[](Complex z) { return 1.0L / std::tan(z); },
        [](Complex z) { return 1.0L / (std::sin(z) * std::sin(z)); }}},
      {"sec",
       {[](Complex z) { return 1.0L / std::cos(z); },
        [](Complex z) { return std::tan(z) / std::cos(z); }}},
      {"csc",
       {[](Complex z) { return 1.0L / std::sin(z); },
        [](Complex z) { return std::cos(z) / (std::sin(z) * std::sin(z)); }}},
      {"arcsin",
       {[](Complex z) { return std::asin(z); },
        [](Complex z) { return 1.0L / std::sqrt(1.0L - z * z); }}},
      {"arccos",
       {[](Complex z) { return std::acos(z); },
        [](Complex z) { return 1.0L / std::sqrt(1.0L - z * z); }}},
      {"arctan",
       {[](Complex z) { return std::atan(z); }, [](Complex z) { return 1.0L / (1.0L + z * z); }}},
      {"sinh", {[](Complex z) { return std::sinh(z); }, [](Complex z) { return std::cosh(z); }}},
      {"cosh", {[](Complex z) { return std::cosh(z); }, [](Complex z) { return std::sinh(z); }}},
      {"tanh",
       {[](Complex z) { return std::tanh(z); },
        [](Complex z) { return 1.0L / (std::cosh(z) * std::cosh(z)); }}},
      {"exp", {[](Complex z) { return std::exp(z); }, [](Complex z) { return std::exp(z); }}},
      {"ln", {[](Complex z) { return std::log(z); }, [](Complex z) { return 1.0L / z; }}},
  };
  return table;
}

Maybe ended(Complex z, long double error, Budget& budget) {
  const bool finite = std::isfinite(z.real()) && std::isfinite(z.imag()) && std::isfinite(error);
  if (!finite || !budget.spend(1)) return std::nullopt;
  return approximate(z, error);
}

Maybe apply(const std::string& name, const Function& f, const Value& x, Budget& budget) {
  if (is_zero(x) && x.exact) {  // exact values that formulas have
    if (name == "cos" || name == "exp" || name == "cosh" || name == "sec") return exact_value(1);
    if (name == "ln" || name == "cot" || name == "csc") return std::nullopt;
    if (name != "arccos") return exact_value(0);
  }
  if (name == "ln" && x.exact && x.re == 1 && x.im == 0) return exact_value(0);
  if ((name == "arcsin" || name == "arccos") && x.exact && abs(x.re) == 1 && x.im == 0) {
    return ended(f.value(x.z), 2 * kUnit, budget);  // where the derivative is infinite
  }
  if (name == "ln" && std::abs(x.z) <= 2 * x.error) return std::nullopt;
  Complex z = f.value(x.z);
  if (x.z.imag() == 0 && name != "arcsin" && name != "arccos" && name != "ln") z = z.real();
  if (x.z.imag() == 0 && (name == "arcsin" || name == "arccos") && std::abs(x.z.real()) <= 1)
    z = z.real();
  // At the ends of arcsin and arccos the derivative is infinite, and the error a square root.
  const long double slope =
      std::min(std::abs(f.derivative(x.z)), 2 / std::sqrt(x.error + LDBL_MIN));
  // Poles: next to one the error of the argument is all there is.
  if (std::abs(z) > 1e15L && name != "exp" && name != "sinh" && name != "cosh") return std::nullopt;
  return ended(z, 2 * slope * (x.error + std::abs(x.z) * kUnit) + std::abs(z) * kUnit, budget);
}

Maybe rounded(const Value& x, bool up) {
  if (!is_real(x)) return std::nullopt;
  if (x.exact) {
    mpz_class result;
    const mpq_class& q = x.re;
    (up ? mpz_cdiv_q : mpz_fdiv_q)(result.get_mpz_t(), q.get_num_mpz_t(), q.get_den_mpz_t());
    return exact_value(result);
  }
  const long double low = x.z.real() - x.error;
  const long double high = x.z.real() + x.error;
  const long double result = up ? std::ceil(low) : std::floor(low);
  if (result != (up ? std::ceil(high) : std::floor(high)) || std::abs(result) > 1e15L)
    return std::nullopt;
  return exact_value(mpq_class(static_cast<double>(result)));
}

std::optional<mpz_class> integer(const Value& v) {
  if (!v.exact || sgn(v.im) != 0 || v.re.get_den() != 1) return std::nullopt;
  return v.re.get_num();
}

Maybe factorial(const Value& x, Budget& budget) {
  if (const auto n = integer(x)) {
    if (sgn(*n) < 0 || *n > 5000 || !budget.spend(n->get_si())) return std::nullopt;
    mpz_class result;
    mpz_fac_ui(result.get_mpz_t(), n->get_ui());
    return exact_value(result);
  }
  if (!is_real(x) || x.z.real() < 0 || x.z.real() > 1000) return std::nullopt;
  const long double value = std::tgamma(x.z.real() + 1);
  return ended(value, std::abs(value) * (1e-15L + 10 * x.error), budget);
}

Maybe binomial(const Value& n, const Value& k, Budget& budget) {
  const auto from = integer(n);
  const auto chosen = integer(k);
  if (from && chosen) {
    if (sgn(*chosen) < 0 || *chosen > 5000 || abs(*from) > 1'000'000) return std::nullopt;
    if (!budget.spend(chosen->get_si())) return std::nullopt;
    mpz_class result;
    mpz_bin_ui(result.get_mpz_t(), from->get_mpz_t(), chosen->get_ui());
    return exact_value(result);
  }
  const auto rest = subtract(n, k, budget);
  if (!rest) return std::nullopt;
  const auto whole = factorial(n, budget);
  const auto left = factorial(k, budget);
  const auto right = factorial(*rest, budget);
  if (!whole || !left || !right) return std::nullopt;
  const auto below = multiply(*left, *right, budget);
  return below ? divide(*whole, *below, budget) : std::nullopt;
}

Maybe log_to(const Value& base, const Value& x, Budget& budget) {
  const Function& ln = analytic().at("ln");
  const auto above = apply("ln", ln, x, budget);
  const auto below = apply("ln", ln, base, budget);
  if (!above || !below) return std::nullopt;
  const auto quotient = divide(*above, *below, budget);
  if (!quotient || !base.exact || !x.exact) return quotient;
  const long double nearest = std::round(quotient->z.real());
  if (std::abs(nearest) > 10'000 || std::abs(quotient->z - nearest) > 1e-12L) return quotient;
  const Value guess = exact_value(mpq_class(static_cast<double>(nearest)));
  const auto back = power(base, guess, budget);
  return back && back->exact && compare(*back, x) == Verdict::kEqual ? guess : quotient;
}

Maybe fold(std::string_view name, const std::vector<Value>& args) {
  if (args.empty()) return std::nullopt;
  Value result = args[0];
  for (const Value& x : args) {
    if (!is_real(x)) return std::nullopt;
    if (name == "max" || name == "min") {
      if (order(x, result) == (name == "max" ? 1 : -1)) result = x;
      continue;
    }
    const auto a = integer(result);
    const auto b = integer(x);
    if (!a || !b) return std::nullopt;
    const mpz_class folded = name == "gcd" ? mpz_class(gcd(*a, *b)) : mpz_class(lcm(*a, *b));
    result = exact_value(folded);
  }
  return result;
}

}  // namespace

bool is_function(std::string_view name) {
  constexpr std::string_view others[] = {"sqrt", "abs",  "floor", "ceil", "factorial",
                                         "log",  "root", "binom", "mod",  "gcd",
                                         "lcm",  "max",  "min"};
  for (const std::string_view other : others) {
    if (name == other) return true;
  }
  return analytic().contains(name);
}

Maybe call(std::string_view name, const std::vector<Value>& args, Budget& budget) {
  for (const Value& x : args) {
    if (!std::isfinite(x.z.real()) || !std::isfinite(x.z.imag())) return std::nullopt;
  }
  if (name == "gcd" || name == "lcm" || name == "max" || name == "min") return fold(name, args);
  if (args.size() == 2) {
    if (name == "log") return log_to(args[0], args[1], budget);
    if (name == "binom") return binomial(args[0], args[1], budget);
    if (name == "mod") return args[0];
    if (name == "root") {
      const auto inverse = divide(exact_value(1), args[0], budget);
      return inverse ? power(args[1], *inverse, budget) : std::nullopt;
    }
  }
  if (args.size() != 1) return std::nullopt;
  const Value& x = args[0];
  if (name == "sqrt") return power(x, exact_value(mpq_class(1, 2)), budget);
  if (name == "floor" || name == "ceil") return rounded(x, name == "ceil");
  if (name == "factorial") return factorial(x, budget);
  if (name == "abs") {
    if (x.exact && sgn(x.im) == 0) return exact_value(abs(x.re));
    return ended(std::abs(x.z), x.error + std::abs(x.z) * kUnit, budget);
  }
  const auto found = analytic().find(name);
  return found == analytic().end() ? std::nullopt : apply(found->first, found->second, x, budget);
}

}  // namespace qad::score::math
