// Exact and approximate arithmetic on values. Errors are bounded to first order with room to spare:
// each rounding counts for eight units where one half is due.
#include "score/math_value.h"

#include <cfloat>
#include <cmath>
#include <utility>

namespace qad::score::math {
namespace {

using Complex = std::complex<long double>;
constexpr long double kUnit = 8 * LDBL_EPSILON;
constexpr std::size_t kMaxBits = 65'536;

std::size_t bits(const mpq_class& q) {
  return mpz_sizeinbase(q.get_num_mpz_t(), 2) + mpz_sizeinbase(q.get_den_mpz_t(), 2);
}
std::size_t bits(const Value& v) {
  return bits(v.re) + bits(v.im);
}

// mpz_get_d has the 53 bits of a double; this has those of a long double.
long double to_float(const mpz_class& integer, long& exponent) {
  const std::size_t size = mpz_sizeinbase(integer.get_mpz_t(), 2);
  exponent = size > 128 ? static_cast<long>(size - 128) : 0;
  mpz_class head;
  mpz_tdiv_q_2exp(head.get_mpz_t(), integer.get_mpz_t(), static_cast<mp_bitcnt_t>(exponent));
  long double value = 0;
  for (std::size_t i = mpz_size(head.get_mpz_t()); i-- > 0;) {
    value = value * 18446744073709551616.0L +
            static_cast<long double>(mpz_getlimbn(head.get_mpz_t(), static_cast<mp_size_t>(i)));
  }
  return sgn(integer) < 0 ? -value : value;
}

long double to_float(const mpq_class& q) {
  if (sgn(q) == 0) return 0;
  long up = 0;
  long down = 0;
  const long double numerator = to_float(q.get_num(), up);
  const long double denominator = to_float(q.get_den(), down);
  return std::ldexp(numerator / denominator, static_cast<int>(up - down));
}

bool finite(Complex z) {
  return std::isfinite(z.real()) && std::isfinite(z.imag());
}
// Zero has no sign here: that of an imaginary part would choose a side of a branch cut.
Complex unsigned_zeros(Complex z) {
  return {z.real() + 0.0L, z.imag() + 0.0L};
}

Maybe made(mpq_class re, mpq_class im, Budget& budget) {
  const std::size_t size = bits(re) + bits(im);
  if (!budget.spend(1 + static_cast<long>(size / 64))) return std::nullopt;
  Value v = exact_value(std::move(re), std::move(im));
  if (size <= kMaxBits) return v;
  if (!finite(v.z)) return std::nullopt;
  return approximate(v.z, v.error);
}

Maybe made(Complex z, long double error, Budget& budget) {
  if (!budget.spend(1) || !finite(z) || !std::isfinite(error)) return std::nullopt;
  return approximate(z, error);
}

bool usable(const Value& v) {
  return finite(v.z);
}

std::optional<long> small_integer(const Value& v) {
  if (!v.exact || sgn(v.im) != 0 || v.re.get_den() != 1) return std::nullopt;
  if (!v.re.get_num().fits_slong_p()) return std::nullopt;
  return v.re.get_num().get_si();
}

Maybe exact_product(const Value& a, const mpq_class& re, const mpq_class& im, Budget& budget) {
  if (sgn(a.im) == 0 && sgn(im) == 0) return made(a.re * re, 0, budget);
  return made(a.re * re - a.im * im, a.re * im + a.im * re, budget);
}

Maybe exact_power(const Value& a, long n, Budget& budget) {
  const long size = n < 0 ? -(n + 1) : n;
  if (static_cast<double>(size) * static_cast<double>(bits(a)) > 2.0 * kMaxBits) {
    return std::nullopt;
  }
  Maybe result = exact_value(1);
  Maybe square = a;
  for (unsigned long rest = n < 0 ? 0UL - static_cast<unsigned long>(n)
                                  : static_cast<unsigned long>(n);
       rest > 0; rest >>= 1) {
    if (rest & 1) {
      result = multiply(*result, *square, budget);
      if (!result) return std::nullopt;
    }
    if (rest > 1) {
      square = multiply(*square, *square, budget);
      if (!square) return std::nullopt;
    }
  }
  return n < 0 ? divide(exact_value(1), *result, budget) : result;
}

// The exact root of degree n of a rational number that has one.
std::optional<mpq_class> exact_root(const mpq_class& q, long n) {
  if (n < 1 || n > 1000 || (sgn(q) < 0 && n % 2 == 0)) return std::nullopt;
  mpz_class numerator;
  mpz_class denominator;
  const auto degree = static_cast<unsigned long>(n);
  if (mpz_root(numerator.get_mpz_t(), q.get_num_mpz_t(), degree) == 0) return std::nullopt;
  if (mpz_root(denominator.get_mpz_t(), q.get_den_mpz_t(), degree) == 0) return std::nullopt;
  return mpq_class(numerator, denominator);
}

Maybe real_power(const Value& a, const mpq_class& exponent, Budget& budget) {
  const long degree = exponent.get_den().get_si();
  if (a.exact && bits(a) < 4096) {
    if (const auto root = exact_root(a.re, degree)) {
      return exact_power(exact_value(*root), exponent.get_num().get_si(), budget);
    }
  }
  if (a.z.real() >= 0 || degree % 2 == 0) return std::nullopt;
  const bool odd = mpz_odd_p(exponent.get_num_mpz_t()) != 0;
  const Value positive = a.exact ? exact_value(-a.re) : approximate(-a.z, a.error);
  const auto magnitude = power(positive, exact_value(exponent), budget);
  if (!magnitude || !odd) return magnitude;
  return multiply(exact_value(-1), *magnitude, budget);
}

}  // namespace

Value exact_value(mpq_class re, mpq_class im) {
  Value v;
  v.z = {to_float(re), to_float(im)};
  v.error = std::abs(v.z) * kUnit;
  v.re = std::move(re);
  v.im = std::move(im);
  v.exact = true;
  return v;
}

Value approximate(Complex z, long double error) {
  Value v;
  v.z = unsigned_zeros(z);
  v.error = error + LDBL_MIN;
  return v;
}

Maybe add(const Value& a, const Value& b, Budget& budget) {
  if (a.exact && b.exact) return made(a.re + b.re, a.im + b.im, budget);
  const Complex z = a.z + b.z;
  return made(z, a.error + b.error + std::abs(z) * kUnit, budget);
}

Maybe subtract(const Value& a, const Value& b, Budget& budget) {
  if (a.exact && b.exact) return made(a.re - b.re, a.im - b.im, budget);
  const Complex z = a.z - b.z;
  return made(z, a.error + b.error + std::abs(z) * kUnit, budget);
}

Maybe multiply(const Value& a, const Value& b, Budget& budget) {
  if (a.exact && b.exact) return exact_product(a, b.re, b.im, budget);
  if (!usable(a) || !usable(b)) return std::nullopt;
  const bool real = a.z.imag() == 0 && b.z.imag() == 0;
  const Complex z = real ? Complex(a.z.real() * b.z.real()) : a.z * b.z;
  return made(
      z,
      std::abs(a.z) * b.error + std::abs(b.z) * a.error + a.error * b.error + std::abs(z) * kUnit,
      budget);
}

Maybe divide(const Value& a, const Value& b, Budget& budget) {
  if (b.exact) {
    const mpq_class norm = b.re * b.re + b.im * b.im;
    if (sgn(norm) == 0) return std::nullopt;
    if (a.exact) return exact_product(a, b.re / norm, -b.im / norm, budget);
  }
  if (!usable(a) || !usable(b)) return std::nullopt;
  const long double distance = std::abs(b.z) - b.error;
  if (distance <= b.error) return std::nullopt;
  const bool real = a.z.imag() == 0 && b.z.imag() == 0;
  const Complex z = real ? Complex(a.z.real() / b.z.real()) : a.z / b.z;
  return made(z, (a.error + std::abs(z) * b.error) / distance + std::abs(z) * kUnit, budget);
}

Maybe power(const Value& a, const Value& b, Budget& budget) {
  if (const auto n = small_integer(b)) {
    if (*n == 0) return exact_value(1);
    if (a.exact) {
      const mpq_class& re = a.re;
      if (sgn(a.im) == 0 && (re == 0 || re == 1 || re == -1)) {
        if (re == 0) return *n < 0 ? Maybe() : Maybe(exact_value(0));
        return exact_value(*n % 2 == 0 ? mpq_class(1) : re);
      }
      if (auto exact = exact_power(a, *n, budget)) return exact;
    }
  }
  if (!usable(a) || !usable(b)) return std::nullopt;
  if (b.exact && sgn(b.im) == 0 && is_real(a) && bits(b.re) < 64) {
    if (auto real = real_power(a, b.re, budget)) return real;
  }
  const long double size = std::abs(a.z);
  if (size <= 2 * a.error) {  // zero, or not known not to be
    if (a.exact && b.z.imag() == 0 && b.z.real() > 0) return exact_value(0);
    return std::nullopt;
  }
  const bool real = a.z.imag() == 0 && b.z.imag() == 0 && a.z.real() > 0;
  const Complex z = real ? Complex(std::pow(a.z.real(), b.z.real())) : std::pow(a.z, b.z);
  const long double turns = std::abs(std::log(a.z));
  const long double relative = 2 * std::abs(b.z) * a.error / (size - a.error) + turns * b.error +
                               kUnit * (1 + std::abs(b.z) * turns);
  return made(z, std::abs(z) * relative, budget);
}

bool is_real(const Value& v) {
  return v.exact ? sgn(v.im) == 0 : std::abs(v.z.imag()) <= v.error;
}

bool is_zero(const Value& v) {
  return v.exact ? sgn(v.re) == 0 && sgn(v.im) == 0 : std::abs(v.z) <= v.error;
}

Verdict compare(const Value& a, const Value& b) {
  if (a.exact && b.exact) {
    const bool same = a.re == b.re && a.im == b.im;
    return same ? Verdict::kEqual : Verdict::kDifferent;
  }
  if (!usable(a) || !usable(b)) return Verdict::kUnknown;
  const long double bound = a.error + b.error;
  if (!(std::abs(a.z - b.z) <= bound)) return Verdict::kDifferent;
  const long double scale = std::max({std::abs(a.z), std::abs(b.z), 1.0L});
  return bound <= 1e-9L * scale ? Verdict::kEqual : Verdict::kUnknown;
}

int order(const Value& a, const Value& b) {
  if (a.exact && b.exact) return cmp(a.re, b.re) < 0 ? -1 : a.re > b.re;
  if (compare(a, b) != Verdict::kDifferent) return 0;
  return a.z.real() < b.z.real() ? -1 : 1;
}

}  // namespace qad::score::math
