// Reads digits.
#include "score/math_numerals.h"

#include <cctype>
#include <cstdlib>

namespace qad::score::math {

std::optional<mpq_class> decimal(const std::string& text) {
  mpz_class digits = 0;
  long scale = 0;
  bool point = false;
  std::size_t i = 0;
  std::string plain;
  for (; i < text.size() && text[i] != '(' && text[i] != 'e'; ++i) {
    if (text[i] == '.') {
      point = true;
    } else {
      plain += text[i];
      scale += point;
    }
  }
  digits = mpz_class(plain.empty() ? "0" : plain, 10);
  mpz_class power;
  mpz_ui_pow_ui(power.get_mpz_t(), 10, static_cast<unsigned long>(scale));
  mpq_class value(digits, power);
  value.canonicalize();
  if (i < text.size() && text[i] == '(') {
    const std::size_t end = text.find(')', i);
    const std::string period = text.substr(i + 1, end - i - 1);
    mpz_class nines;
    mpz_ui_pow_ui(nines.get_mpz_t(), 10, period.size());
    mpq_class repeated(mpz_class(period, 10), (nines - 1) * power);
    repeated.canonicalize();
    value += repeated;
    i = end + 1;
  }
  if (i < text.size() && text[i] == 'e') {
    const std::string exponent = text.substr(i + 1);
    if (exponent.size() > 5) return std::nullopt;
    const long e = std::stol(exponent);
    if (std::abs(e) > 9999) return std::nullopt;
    mpz_class ten;
    mpz_ui_pow_ui(ten.get_mpz_t(), 10, static_cast<unsigned long>(std::abs(e)));
    value = e < 0 ? mpq_class(value / ten) : mpq_class(value * ten);
  }
  return value;
}

std::optional<mpz_class> based(const std::string& digits, int base) {
  if (base < 2 || base > 36) return std::nullopt;
  mpz_class value = 0;
  for (const char c : digits) {
    const auto u = static_cast<unsigned char>(c);
    const int d = std::isdigit(u) != 0 ? c - '0' : std::toupper(u) - 'A' + 10;
    if (std::isalnum(u) == 0 || d >= base) return std::nullopt;
    value = value * base + d;
  }
  return value;
}

}  // namespace qad::score::math
