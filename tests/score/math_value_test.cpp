// Values of formulas: exact where they are rational, and errors that bound what was lost where they
// are not.
#include "score/math_value.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qad::score::math {
namespace {

Value rational(const char* text) {
  return exact_value(mpq_class(text));
}

TEST(MathValue, RationalArithmeticIsExact) {
  Budget budget;
  const auto third = divide(exact_value(1), exact_value(3), budget);
  const auto whole = multiply(*third, exact_value(3), budget);
  EXPECT_TRUE(whole->exact);
  EXPECT_EQ(whole->re, 1);
  EXPECT_FALSE(divide(exact_value(1), exact_value(0), budget).has_value());
  const auto i = exact_value(0, 1);
  EXPECT_EQ(power(i, exact_value(2), budget)->re, -1);
  EXPECT_EQ(power(i, exact_value(-1), budget)->im, -1);
  EXPECT_EQ(power(exact_value(0), exact_value(0), budget)->re, 1);
}

TEST(MathValue, PerfectPowersHaveExactRoots) {
  Budget budget;
  const auto root = power(rational("27/8"), rational("2/3"), budget);
  ASSERT_TRUE(root && root->exact);
  EXPECT_EQ(root->re, mpq_class(9, 4));
  const auto cube = power(exact_value(-8), rational("1/3"), budget);
  ASSERT_TRUE(cube && cube->exact);
  EXPECT_EQ(cube->re, -2);
  const auto imaginary = power(exact_value(-4), rational("1/2"), budget);
  EXPECT_NEAR(static_cast<double>(imaginary->z.imag()), 2, 1e-15);
}

TEST(MathValue, ErrorsBoundWhatIsLost) {
  Budget budget;
  // (sqrt 3 - sqrt 2)(sqrt 3 + sqrt 2) is 1, and nothing else within the bound, which is small.
  const auto three = power(exact_value(3), rational("1/2"), budget);
  const auto two = power(exact_value(2), rational("1/2"), budget);
  const auto one = multiply(*subtract(*three, *two, budget), *add(*three, *two, budget), budget);
  EXPECT_FALSE(one->exact);
  EXPECT_LT(one->error, 1e-16L);
  EXPECT_EQ(compare(*one, exact_value(1)), Verdict::kEqual);
  EXPECT_EQ(compare(*one, rational("1000000000000001/1000000000000000")), Verdict::kDifferent);
  // A difference of nothing but errors has no inverse, and one of large numbers no verdict.
  const auto nothing = subtract(*power(exact_value(8), rational("1/2"), budget),
                                *multiply(exact_value(2), *two, budget), budget);
  EXPECT_TRUE(is_zero(*nothing));
  EXPECT_FALSE(divide(exact_value(1), *nothing, budget).has_value());
  const auto blurred =
      multiply(*nothing, power(exact_value(10), exact_value(30), budget).value(), budget);
  EXPECT_EQ(compare(*blurred, exact_value(1)), Verdict::kUnknown);
}

TEST(MathValue, FloatsHaveAllTheirBits) {
  // 2^64 - 1 has 64 bits, a double 53.
  const Value v = rational("18446744073709551615");
  EXPECT_EQ(v.z.real(), std::ldexp(1.0L, 64) - 1);
  EXPECT_EQ(rational("-1/3").z.real(), -1.0L / 3);
}

TEST(MathValue, FunctionsAtExactPoints) {
  Budget budget;
  EXPECT_EQ(call("factorial", {exact_value(20)}, budget)->re, mpq_class("2432902008176640000"));
  EXPECT_EQ(call("binom", {exact_value(52), exact_value(5)}, budget)->re, 2598960);
  EXPECT_EQ(call("log", {exact_value(2), exact_value(1024)}, budget)->re, 10);
  EXPECT_EQ(call("floor", {rational("-7/2")}, budget)->re, -4);
  EXPECT_EQ(call("ceil", {rational("-7/2")}, budget)->re, -3);
  EXPECT_EQ(call("gcd", {exact_value(12), exact_value(18)}, budget)->re, 6);
  EXPECT_FALSE(call("ln", {exact_value(0)}, budget).has_value());
  EXPECT_FALSE(call("factorial", {exact_value(-1)}, budget).has_value());
}

TEST(MathValue, WorkIsBounded) {
  Budget budget;
  budget.steps = 10;
  Maybe v = exact_value(mpq_class(3, 7));
  int steps = 0;
  for (; v && steps < 100; ++steps) v = multiply(*v, *v, budget);
  EXPECT_LT(steps, 12);
}

}  // namespace
}  // namespace qad::score::math
