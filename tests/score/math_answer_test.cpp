// What responses answer. The texts are in the styles of models and of the benchmarks' own
// solutions.
#include <gtest/gtest.h>

#include <string>

#include "score/math.h"

namespace qad::score {
namespace {

TEST(MathAnswer, LastBox) {
  const std::pair<const char*, const char*> cases[] = {
      {R"(so \boxed{5}.)", "5"},
      {R"(\boxed{1} and then \boxed{2})", "2"},
      {R"($\boxed{\frac{1}{\sqrt{2}}}$)", R"(\frac{1}{\sqrt{2}})"},
      {R"(\boxed{\{1,2\}})", R"(\{1,2\})"},
      {R"(\boxed{ \left\{ x \mid x > 2 \right. })", R"(\left\{ x \mid x > 2 \right.)"},
      {R"(\fbox{7})", "7"},
      {R"($\boxed 5$)", "5"},
      {R"(\boxed {12} .)", "12"},
      {R"(\boxed{\text{(B)}})", R"(\text{(B)})"},
      {R"(\boxed{})", ""},
  };
  for (const auto& [response, box] : cases) EXPECT_EQ(last_boxed(response), box) << response;
  for (const char* response :
       {"", "5", R"(\boxed{5)", R"(\boxed)", R"(\boxed{1} \boxed{\frac{1}{2})"}) {
    EXPECT_EQ(last_boxed(response), std::nullopt) << response;
  }
}

TEST(MathAnswer, LastNumber) {
  const std::pair<const char*, const char*> cases[] = {
      {"She has 3 apples and 12 pears.", "12"},
      {"That costs $1,234.50.", "1234.50"},
      {"a loss of -$5", "-5"},
      {"a loss of $-5", "-5"},
      {"1,234,567 people", "1234567"},
      {"the numbers 1,2", "2"},
      {"between 3-5", "5"},
      {"about .75 of it", ".75"},
      {"in 2024, 18%", "18"},
      {"7.", "7"},
      {"x=-42", "-42"},
      {"#### 1,080", "1080"},
      {"3.14.15", "14.15"},
      {"12,34", "34"},
  };
  for (const auto& [response, number] : cases) EXPECT_EQ(last_number(response), number) << response;
  EXPECT_EQ(last_number("none"), std::nullopt);
  EXPECT_EQ(last_number(""), std::nullopt);
}

TEST(MathAnswer, FinalAnswer) {
  const std::pair<const char*, const char*> cases[] = {
      {R"(The answer is 4, no: $\boxed{5}$. Check: 7.)", "5"},
      {"He sold 48/2 = <<48/2=24>>24 clips in May.\n#### 72", "72"},
      {"Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.", R"(\frac{1}{2})"},
      {"So the answer is 42.", "42"},
      {"The answer is 3.5 miles. That took 2 hours.", "3.5 miles"},
      {"**Answer:** 17", "17"},
      {"Answer: B", "B"},
      {"The final answer is:\n\n$x = 5$", "x = 5"},
      {"Therefore $x = 3$ and $y = \\pi$.", R"(y = \pi)"},
      {"It is \\(2\\sqrt{3}\\).", R"(2\sqrt{3})"},
      {"It is\n\\[ 2\\sqrt{3} \\]", R"(2\sqrt{3})"},
      {"She pays $18 and then $20, so $38 in all.", "38"},
      {"The answer is $72.", "$72"},
      {"There are 5 apples left", "5"},
      {"Reasons.\nYes", "Yes"},
      {"", ""},
  };
  for (const auto& [response, answer] : cases)
    EXPECT_EQ(final_answer(response), answer) << response;
}

TEST(MathAnswer, WhatIsSaidIsJudged) {
  EXPECT_TRUE(math_equal("72", final_answer("She spent\n#### $72.00")));
  EXPECT_TRUE(math_equal("1080", final_answer("The answer is 1,080 dollars.")));
  EXPECT_TRUE(math_equal(R"(\frac{3}{4})", final_answer("Thus the probability is $0.75$.")));
  EXPECT_FALSE(math_equal("72", final_answer("The answer is 73.")));
}

// Quadratic searches would take minutes on these.
TEST(MathAnswer, LongResponses) {
  for (const std::string part :
       {"\\(", "\\[", "$x ", "\\boxed{", "1,", "answer is ", "\\boxed{1} "}) {
    std::string response;
    while (response.size() < 1'000'000) response += part;
    final_answer(response);
    last_number(response);
    EXPECT_TRUE(math_equal(response, response));
  }
}

}  // namespace
}  // namespace qad::score
