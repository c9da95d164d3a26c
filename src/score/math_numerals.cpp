// Numbers as they are written: digits, decimals, bases, mixed numbers.
#include <cctype>
#include <cstdlib>

#include "score/math_parser_class.h"
#include "score/math_words.h"

namespace qad::score::math {
namespace {

// "12.5", "0.1(6)" (a repeating decimal), "1.5e-3"; none beyond an exponent of 9,999.
std::optional<mpq_class> decimal(const std::string& text) {
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
  const mpz_class digits(plain.empty() ? "0" : plain, 10);
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

// Digits 0-9 and A-Z in a base from 2 to 36; none if a digit is not one of the base.
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

}  // namespace

Expr Parser::numeral(const Token& token) {
  if (is("_")) {
    if (auto e = in_base(token.text)) return std::move(*e);
  }
  if (token.kind == Token::kBased) throw Unreadable();
  const auto value = decimal(token.text);
  if (!value) throw Unreadable();
  Expr whole = number(*value);
  if (token.text.find('.') != std::string::npos && token.text.find('(') == std::string::npos) {
    whole.name = token.text;
  }
  const bool integer = token.text.find_first_not_of("0123456789") == std::string::npos;
  return integer ? mixed(std::move(whole)) : whole;
}

// 204_5, or nothing taken.
std::optional<Expr> Parser::in_base(const std::string& digits) {
  const std::size_t before = at_;
  ++at_;
  const bool braces = take("{");
  std::optional<int> base;
  if (look().kind == Token::kNumber && look().text.size() <= 2)
    base = std::atoi(look().text.c_str());
  if (look().kind == Token::kText) base = number_of_word(plain_words(look().text));
  ++at_;
  if (base && (!braces || take("}"))) {
    if (const auto value = based(digits, *base)) {
      Expr e = number(*value);
      e.kind = Kind::kBased;
      e.name = digits + "_" + std::to_string(*base);
      return e;
    }
  }
  at_ = before;
  if (base || braces) throw Unreadable();
  return std::nullopt;
}

// 1\frac{4}{5} and "1 4/5" are 9/5 if the fraction is a proper one of literals.
Expr Parser::mixed(Expr whole) {
  const std::size_t before = at_;
  std::optional<mpq_class> part;
  const auto literal_argument = [&]() -> std::optional<mpz_class> {
    const bool braces = take("{");
    Token& t = tokens_[std::min(at_, tokens_.size() - 1)];
    if (t.kind != Token::kNumber || t.text.find_first_not_of("0123456789") != std::string::npos)
      return std::nullopt;
    if (!braces && t.text.size() > 1) return std::nullopt;
    ++at_;
    if (braces && !take("}")) return std::nullopt;
    return mpz_class(t.text, 10);
  };
  if (is_command("frac") || is_command("dfrac") || is_command("tfrac")) {
    ++at_;
    // "\frac12" is one token of two digits.
    const Token& t = look();
    if (t.kind == Token::kNumber && t.text.size() == 2 &&
        t.text.find_first_not_of("0123456789") == std::string::npos) {
      if (t.text[1] != '0') part = mpq_class(t.text[0] - '0', t.text[1] - '0');
      ++at_;
    } else {
      const auto above = literal_argument();
      const auto below = above ? literal_argument() : std::nullopt;
      if (below && *below != 0) part = mpq_class(*above, *below);
    }
  } else if (look().kind == Token::kNumber && look().space && is("/", 1) &&
             look(2).kind == Token::kNumber &&
             look().text.find_first_not_of("0123456789") == std::string::npos &&
             look(2).text.find_first_not_of("0123456789") == std::string::npos) {
    const mpz_class below(look(2).text, 10);
    if (below != 0) part = mpq_class(mpz_class(look().text, 10), below);
    at_ += 3;
  }
  if (!part || cmp(*part, 1) >= 0 || is("^")) {
    at_ = before;
    return whole;
  }
  part->canonicalize();
  return number(whole.number + *part);
}

}  // namespace qad::score::math
