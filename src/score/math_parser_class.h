// The parser itself, split over three files: math_parser.cpp reads what holds answers down to
// products, math_atoms.cpp factors and what they are made of, math_numerals.cpp numbers.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "score/math_expr.h"
#include "score/math_lexer.h"

namespace qad::score::math {

inline constexpr int kMaxDepth = 256;   // four for each bracket
inline constexpr int kMaxNested = 256;  // a/b/c/..., x!!!...: deep without brackets
inline constexpr std::size_t kMaxTokens = 4096;

struct Unreadable {};

struct Options {
  LexOptions lex;
  bool tight = false;     // in 1/2x the product is made first
  bool functions = true;  // f(x) is a value of f, not a product
};

struct Ambiguous {
  bool thousands = false, tight = false, functions = false;
};

Expr times(Expr left, Expr right);

class Parser {
 public:
  Parser(std::vector<Token> tokens, const Options& options, Ambiguous& ambiguous)
      : tokens_(std::move(tokens)), options_(options), ambiguous_(ambiguous) {
    if (tokens_.size() > kMaxTokens) throw Unreadable();
  }

  Expr answer();

 private:
  Expr nested(Expr e);
  const Token& look(std::size_t ahead = 0) const;
  bool is(std::string_view symbol, std::size_t ahead = 0) const;
  bool is_command(std::string_view command) const;
  bool take(std::string_view symbol);
  void expect(std::string_view symbol);
  bool is_join() const;

  struct Deeper {
    explicit Deeper(int& d) : depth(d) {
      if (++depth > kMaxDepth) {
        --depth;
        throw Unreadable();
      }
    }
    ~Deeper() { --depth; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;
    int& depth;
  };

  // What holds answers, from the loosest to the tightest.
  Expr list();
  bool ends_list() const;
  Expr relation();
  std::optional<std::string> relation_sign() const;
  Expr set();
  Expr ratio();
  Expr sum();
  Expr with_unit(Expr e);
  Expr product();
  Expr signed_factor();
  bool starts_factor() const;

  // Factors.
  Expr factor();
  Expr degrees(Expr e);
  Expr raised(Expr base);
  Expr exponent();
  Expr atom();
  Expr numeral(const Token& token);
  Expr mixed(Expr whole);
  std::optional<Expr> in_base(const std::string& digits);
  Expr named(const std::string& letter);
  Expr function(std::string word);
  Expr bare_or_bracketed();
  Expr command(const std::string& word);
  Expr group();
  Expr argument();
  std::string raw_argument();
  Expr matrix(const std::string& kind);
  Expr equations(const std::string& kind);
  Expr symbol(const std::string& sign);
  Expr bracketed(const std::string& open);
  Expr braces();

  std::vector<Token> tokens_;
  const Options& options_;
  Ambiguous& ambiguous_;
  std::size_t at_ = 0;
  int depth_ = 0;
  int nested_ = 0;
  int bars_ = 0;            // 1 within |...|, where the next bar closes
  bool in_set_ = false;     // within \{...\}, where a bar or colon begins the condition
  bool in_angles_ = false;  // within <...>
};

}  // namespace qad::score::math
