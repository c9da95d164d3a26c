// Verdicts on pairs of answers whose truth is mathematics, or a convention that
// docs/math-verdicts.md states.
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "core/json.h"
#include "score/math.h"

namespace qad::score {
namespace {

struct Pair {
  const char* reference;
  const char* answer;
  bool equal;
};

// clang-format off
constexpr Pair kPairs[] = {
    // Fractions.
    {R"(\frac12)", R"(0.5)", true},
    {R"(\frac12)", R"(.5)", true},
    {R"(\frac12)", R"(1/2)", true},
    {R"(\dfrac{1}{2})", R"(\frac{2}{4})", true},
    // Fractions.
    {R"(\frac12)", R"(0.50)", true},
    {R"(\frac12)", R"(\frac21)", false},
    {R"(-\frac{1}{3})", R"(\frac{-1}{3})", true},
    {R"(-\frac{1}{3})", R"(\frac{1}{-3})", true},
    {R"(\frac{1}{3})", R"(0.\overline{3})", true},
    {R"(\frac{1}{6})", R"(0.1\overline{6})", true},
    {R"(\frac{1}{3})", R"(0.33)", false},
    // Large numbers.
    {R"(2^{1000})", R"(4^{500})", true},
    {R"(2^{1000})", R"(4^{500}+1)", false},
    {R"(2^{4950})", R"(2^{4949} \cdot 2)", true},
    {R"(10^{20})", R"(100000000000000000001)", false},
    {R"(100!)", R"(100 \cdot 99!)", true},
    // Radicals.
    {R"(\sqrt{8})", R"(2\sqrt2)", true},
    {R"(\frac{1}{\sqrt2})", R"(\frac{\sqrt2}{2})", true},
    {R"(\sqrt[3]{-8})", R"(-2)", true},
    {R"((-8)^{1/3})", R"(-2)", true},
    {R"(\sqrt{3+2\sqrt2})", R"(1+\sqrt2)", true},
    {R"(\sqrt{2}+\sqrt{3})", R"(\sqrt{5})", false},
    {R"(\sqrt{2}+\sqrt{3})", R"(\sqrt{5+2\sqrt6})", true},
    // Functions.
    {R"(e^{i\pi})", R"(-1)", true},
    {R"(\ln 8)", R"(3\ln 2)", true},
    {R"(\log_2 8)", R"(3)", true},
    {R"(\log 100)", R"(2)", true},
    {R"(\log_{10} 2)", R"(\ln 2)", false},
    {R"(\sin 30^\circ)", R"(\frac12)", true},
    {R"(\cos \frac{\pi}{3})", R"(0.5)", true},
    {R"(\arctan 1)", R"(\frac\pi4)", true},
    {R"(\tan^{-1} 1)", R"(\frac\pi4)", true},
    {R"(\sin^2 x)", R"(1 - \cos^2 x)", true},
    {R"(\sin 2x)", R"(2 \sin x \cos x)", true},
    {R"(\sin 2x)", R"(2 \sin x)", false},
    // Polynomials.
    {R"((x+1)^2)", R"(x^2+2x+1)", true},
    {R"((x+1)^2)", R"(x^2+1)", false},
    {R"((a+b)(a-b))", R"(a^2-b^2)", true},
    {R"(\frac{x^2-1}{x-1})", R"(x+1)", true},
    {R"(x^{-1})", R"(\frac1x)", true},
    {R"(\sqrt{x^2})", R"(|x|)", true},
    {R"(\sqrt{x^2})", R"(x)", false},
    {R"(\sqrt{p^3})", R"(p\sqrt p)", true},
    {R"(30p\sqrt{p})", R"(\sqrt{900p^3})", true},
    {R"(x^2)", R"(x^3)", false},
    {R"(x)", R"(y)", false},
    // Combinatorics.
    {R"(2^{n-1})", R"(\frac{2^n}{2})", true},
    {R"(\binom{10}{3})", R"(120)", true},
    {R"(\binom{n}{2})", R"(\frac{n(n-1)}{2})", true},
    {R"(n!)", R"(n (n-1)!)", true},
    {R"(\lfloor 3.7 \rfloor)", R"(3)", true},
    {R"(\lceil \pi \rceil)", R"(4)", true},
    {R"(|-5|)", R"(5)", true},
    {R"(||x|-1|)", R"(|1-|x||)", true},
    // Complex numbers.
    {R"(3+4i)", R"(4i+3)", true},
    {R"(\frac{1}{i})", R"(-i)", true},
    {R"((1+i)^2)", R"(2i)", true},
    {R"(3+4i)", R"(3-4i)", false},
    // Ways to write numbers.
    {R"(1,234)", R"(1234)", true},
    {R"(1{,}234)", R"(1234)", true},
    {R"(1\,234)", R"(1234)", true},
    {R"(1,\!234,\!567)", R"(1234567)", true},
    {R"(11,\! 111,\! 111,\! 100)", R"(11111111100)", true},
    {R"(1,234)", R"(1235)", false},
    {R"((1,234))", R"(1234)", false},
    {R"(81, 256)", R"(256, 81)", true},
    {R"(1.5e3)", R"(1500)", true},
    {R"(1.5 \times 10^3)", R"(1500)", true},
    {R"(3.2\times10^{-5})", R"(0.000032)", true},
    {R"(1\frac45)", R"(\frac95)", true},
    {R"(-1\frac45)", R"(-\frac95)", true},
    {R"(-1\frac45)", R"(-\frac15)", false},
    {R"(5 1/2)", R"(5.5)", true},
    {R"(2 1/2)", R"(21/2)", false},
    {R"(3\cdot\frac12)", R"(1.5)", true},
    // Percent, degrees.
    {R"(50\%)", R"(50)", true},
    {R"(50\%)", R"(0.5)", true},
    {R"(50\%)", R"(\frac12)", true},
    {R"(50\%)", R"(5)", false},
    {R"(12.5\%)", R"(\frac18)", true},
    {R"(30^\circ)", R"(30)", true},
    {R"(30^\circ)", R"(\frac{\pi}{6})", true},
    {R"(30^\circ)", R"(30 \text{ degrees})", true},
    {R"(30^\circ)", R"(60^\circ)", false},
    // Units.
    {R"(\$18.90)", R"(18.9)", true},
    {R"(\$18.90)", R"(18.90 dollars)", true},
    {R"(\$18.90)", R"(1890 cents)", true},
    {R"(\$18.90)", R"(18.90 cents)", false},
    {R"(15\text{ cm}^2)", R"(15)", true},
    {R"(15\text{ cm}^2)", R"(15 cm^2)", true},
    {R"(15\text{ cm}^2)", R"(15\text{ square centimeters})", true},
    {R"(15\text{ cm}^2)", R"(15\text{ cm})", false},
    {R"(2 \text{ hours})", R"(120 \text{ minutes})", true},
    {R"(2 \text{ hours})", R"(2 \text{ minutes})", false},
    {R"(60\text{ mph})", R"(60 \text{ miles per hour})", true},
    {R"(14 \text{ right triangles})", R"(14)", true},
    // Equations.
    {R"(x=5)", R"(5)", true},
    {R"(5)", R"(x = 5)", true},
    {R"(5)", R"(5 = x)", true},
    {R"(x=5)", R"(y=5)", false},
    {R"(x=5)", R"(x=6)", false},
    {R"(x = 2+3 = 5)", R"(5)", true},
    {R"(x=5)", R"(2x = 10)", true},
    {R"(y = 2x+3)", R"(2x+3)", true},
    {R"(y = 2x+3)", R"(2x - y = -3)", true},
    {R"(y = 2x+3)", R"(y - 3 = 2x)", true},
    {R"(y = 2x+3)", R"(y = 3x+2)", false},
    {R"(x+y+z=0)", R"(z = -x-y)", true},
    {R"(xy=1)", R"(y = \frac1x)", true},
    {R"(5x - 7y + 11z + 4 = 0)", R"(-5x+7y-11z-4=0)", true},
    {R"(5x - 7y + 11z + 4 = 0)", R"(5x - 7y + 11z - 4 = 0)", false},
    // Intervals.
    {R"(x \in [-2,7])", R"([-2,7])", true},
    {R"(x \in [-2,7])", R"(-2 \le x \le 7)", true},
    {R"([-2,7])", R"([-2,7))", false},
    {R"((-\infty, 3) \cup (3, \infty))", R"(x \ne 3)", true},
    {R"((-\infty, 3) \cup (3, \infty))", R"(\mathbb{R} \setminus \{3\})", true},
    {R"((-\infty, 3) \cup (3, \infty))", R"((3,\infty)\cup(-\infty,3))", true},
    {R"((-\infty, 3) \cup (3, \infty))", R"((-\infty,\infty))", false},
    {R"((-\infty,\infty))", R"(\mathbb{R})", true},
    {R"((-\infty,\infty))", R"(\text{all real numbers})", true},
    {R"([0,1)\cup[1,2])", R"([0,2])", true},
    {R"([0,1)\cup(1,2])", R"([0,2])", false},
    {R"(x<2 \text{ or } x>5)", R"((-\infty,2)\cup(5,\infty))", true},
    {R"(x > 3)", R"(3 < x)", true},
    {R"(x > 3)", R"((3,\infty))", true},
    {R"(x > 3)", R"(x \ge 3)", false},
    {R"(x > 3)", R"(x < 3)", false},
    {R"(\{x \mid x > 3\})", R"((3,\infty))", true},
    {R"(s^2 \le 8r^2)", R"(8r^2 \ge s^2)", true},
    {R"(s^2 \le 8r^2)", R"(s^2 \ge 8r^2)", false},
    {R"(-80\leq g(x)\leq 82)", R"([-80,82])", true},
    // Tuples.
    {R"((1,2))", R"((2,1))", false},
    {R"((1,2))", R"(\left( 1, 2 \right))", true},
    {R"((1,2))", R"((1.0, \frac{4}{2}))", true},
    {R"((1,2))", R"([1,2])", false},
    {R"((1,2,3))", R"((1,2))", false},
    {R"((15,-29))", R"([15,-29))", false},
    {R"((x,y) = (1,2))", R"((1,2))", true},
    {R"((1,2))", R"(x=1, y=2)", true},
    {R"((1,2),(3,4))", R"((3,4),(1,2))", true},
    {R"((-4, 27);(2, 15))", R"((2,15), (-4,27))", true},
    {R"(\begin{pmatrix}1\\2\end{pmatrix})", R"(\begin{bmatrix}1\\2\end{bmatrix})", true},
    {R"(\begin{pmatrix}1\\2\end{pmatrix})", R"((1,2))", true},
    {R"(\begin{pmatrix}1\\2\end{pmatrix})", R"(\langle 1, 2\rangle)", true},
    {R"(\begin{pmatrix}1&2\\3&4\end{pmatrix})", R"(\begin{pmatrix}1&3\\2&4\end{pmatrix})", false},
    {R"(\begin{pmatrix}1/2\\1\end{pmatrix})", R"(\frac12\begin{pmatrix}1\\2\end{pmatrix})", true},
    // Lists.
    {R"(1,2,3)", R"(3,2,1)", true},
    {R"(1,2,3)", R"(\{1,2,3\})", true},
    {R"(1,2,3)", R"(1,2)", false},
    {R"(1,1,2)", R"(1,2,2)", false},
    {R"(2, 3, \text{ and } 4)", R"(2,3,4)", true},
    {R"(-12 \text{ or } -30)", R"(-30, -12)", true},
    {R"(3 \pm 2\sqrt2)", R"(3+2\sqrt2, 3-2\sqrt2)", true},
    {R"(3 \pm 2\sqrt2)", R"(3+2\sqrt2)", false},
    {R"(\pm 1)", R"(1, -1)", true},
    {R"(\{1\pm\sqrt{5},-2\})", R"(-2, 1-\sqrt5, 1+\sqrt5)", true},
    {R"(\pm 1 \pm i)", R"(1+i, 1-i, -1+i, -1-i)", true},
    {R"(x=2 \text{ or } x=3)", R"(2,3)", true},
    {R"(AB=9, CD=4)", R"(CD=4, AB=9)", true},
    // Bases.
    {R"(52_8)", R"(52_{8})", true},
    {R"(52_8)", R"(42_{10})", true},
    {R"(52_8)", R"(53_8)", false},
    {R"(\text{A5}_{11})", R"(A5_{11})", true},
    {R"(101_2)", R"(5)", true},
    // Words.
    {R"(\text{(A)})", R"(A)", true},
    {R"(\text{(A)})", R"((a))", true},
    {R"(\text{(A)})", R"(\textbf{(A)}\ 5)", true},
    {R"(\text{(A)})", R"(B)", false},
    {R"(\text{east})", R"(East)", true},
    {R"(\text{east})", R"(west)", false},
    {R"(\text{yes})", R"(Yes)", true},
    {R"(\text{October 30})", R"(Oct. 30)", true},
    {R"(\text{October 30})", R"(October 31)", false},
    {R"(\text{ellipse})", R"(an ellipse)", true},
    {R"(\mbox{four})", R"(4)", true},
    {R"(\text{CBAD})", R"(CBAD)", true},
    {R"(\text{CBAD})", R"(ABCD)", false},
    {R"(\text{A,B,E})", R"(E, A, B)", true},
    // Times and ratios.
    {R"(8\!:\!34 \text{ p.m.})", R"(8:34 p.m.)", true},
    {R"(8\!:\!34 \text{ p.m.})", R"(8:34 PM)", true},
    {R"(8\!:\!34 \text{ p.m.})", R"(8:34 a.m.)", false},
    {R"(8\!:\!34 \text{ p.m.})", R"(8:34)", true},
    {R"(8\!:\!34 \text{ p.m.})", R"(8:35 p.m.)", false},
    {R"(3:1)", R"(6:2)", true},
    {R"(3:1)", R"(3)", true},
    {R"(3:1)", R"(1:3)", false},
    {R"(05\!:\!00)", R"(5:00)", true},
    {R"(05\!:\!00)", R"(6:00)", false},
    {R"(0.56 = 56\%)", R"(0.56)", true},
    {R"(\$\dfrac23 \approx \$0.67)", R"(\frac23)", true},
    {R"(\approx 8.24 \text{ mph})", R"(8.24)", true},
    // Functions that nobody defined.
    {R"(f(4-x))", R"(f(-x+4))", true},
    {R"(f(4-x))", R"(f(x-4))", false},
    // Decimals.
    {R"(\pi)", R"(3.14159)", true},
    {R"(\pi)", R"(3.14)", false},
    {R"(\pi)", R"(3.14158)", false},
    {R"(.0000672)", R"(6.72 \times 10^{-5})", true},
    {R"(.0000672)", R"(.0000671)", false},
    // Infinity, residues, vectors.
    {R"(\infty)", R"(-\infty)", false},
    {R"(\infty)", R"(+\infty)", true},
    {R"(\emptyset)", R"(\{\})", true},
    {R"(3 \pmod 7)", R"(10 \pmod{7})", true},
    {R"(3 \pmod 7)", R"(3)", true},
    {R"(x \equiv 3 \pmod 7)", R"(3 \pmod 7)", true},
    {R"(3\mathbf{i} + 2\mathbf{j})", R"(2\mathbf{j}+3\mathbf{i})", true},
    // Notations.
    {R"(π/2)", R"(\frac{\pi}{2})", true},
    {R"(√3/2)", R"(\frac{\sqrt{3}}{2})", true},
    {R"(2√3)", R"(\sqrt{12})", true},
    {R"(x² + 1)", R"(x^2+1)", true},
    {R"(−5)", R"(-5)", true},
    {R"(sqrt(3)/2)", R"(\frac{\sqrt3}{2})", true},
    {R"(2*x**2)", R"(2x^2)", true},
    {R"(**42**)", R"(42)", true},
    {R"($42$)", R"(\boxed{42})", true},
    {R"(\boxed{\frac{1}{2}})", R"(0.5)", true},
    {R"(\mathbf{2340})", R"(2340)", true},
    {R"(5^{\text{th}})", R"(5)", true},
    {R"(\begin{pmatrix} 1 & -1 \\ 1 & \phantom -1 \end{pmatrix})", R"(\begin{pmatrix} 1 & -1 \\ 1 & 1 \end{pmatrix})", true},
    {R"(9^{9^{9^{9}}})", R"(9^{9^{9^{9}}})", true},
    {R"(9^{9^{9^{9}}})", R"(9^{9^{9^{8}}})", false},
    {R"({1 \over 2})", R"(0.5)", true},
    {R"({5 \choose 2})", R"(10)", true},
    {R"(\frac{x}{2})", R"(x/2)", true},
    {R"(\frac{\pi r}{h+r})", R"(\frac{\pi}{1+\frac hr})", true},
    {R"(\gcd(12, 18))", R"(6)", true},
    {R"(\max(3, 5))", R"(5)", true},
    {R"((-\infty, -2) \cup (-1, 1))", R"(x < -2 \text{ or } -1 < x < 1)", true},
    {R"(2x-3)", R"(3-2x)", false},
    {R"(-(ab + ac + bc))", R"(-ab-bc-ca)", true},
    {R"(\frac{1}{7}\triangle ABC)", R"(\frac17 \triangle ABC)", true},
    {R"(10\text{ inches})", R"(10")", true},
    {R"(6\frac{1}{6}\text{ feet})", R"(\frac{37}{6})", true},
    {R"(480 + 480\sqrt{3}\text{ feet})", R"(480(1+\sqrt3))", true},
    {R"(x^{10})", R"(x^10)", true},
    {R"((2) (x+2) (x-2))", R"(2x^2-8)", true},
    {R"(1.85\ \text{USD})", R"(\$1.85)", true},
    {R"(2 \sec x)", R"(\frac{2}{\cos x})", true},
    {R"(\cot x)", R"(\frac{1}{\tan x})", true},
    {R"(\csc 10)", R"(\frac{1}{\sin 10})", true},
    {R"(3, 4)", R"(7)", false},
    {R"(\frac{3}{4})", R"(3, 4)", false},
    {R"(-5)", R"(5)", false},
    {R"(12)", R"(1.2)", false},
    // Further readings.
    {R"(6)", R"(2 3)", false},
    {R"(1000000)", R"(1 000 000)", true},
    {R"(5)", R"(The answer is 5)", true},
    {R"(5)", R"(\text{The answer is } 5.)", true},
    {R"(1,2)", R"(\begin{cases} x=1 \\ y=2\end{cases})", true},
    {R"(\sin^{-1}(1))", R"(\frac{\pi}{2})", true},
    {R"(\arccos(-1))", R"(\pi)", true},
    {R"(0.1)", R"(10\%)", true},
    {R"(0.1)", R"(0.1\%)", false},
    {R"(B)", R"(b)", true},
    {R"(B)", R"((B))", true},
    {R"(B)", R"(C)", false},
    {R"(2\pi r)", R"(2\pi R)", false},
};
// clang-format on

TEST(MathEqual, JudgesByMathematics) {
  for (const Pair& pair : kPairs) {
    EXPECT_EQ(math_equal(pair.reference, pair.answer), pair.equal)
        << pair.reference << " and " << pair.answer;
  }
}

TEST(MathEqual, EveryAnswerIsItself) {
  for (const Pair& pair : kPairs) {
    for (const std::string answer : {pair.reference, pair.answer}) {
      EXPECT_TRUE(math_equal(answer, answer)) << answer;
      EXPECT_TRUE(math_equal(answer, " " + answer + " . ")) << answer;
      EXPECT_TRUE(math_equal(answer, "\\boxed{" + answer + "}")) << answer;
    }
  }
}

// bench/math_verdicts.py made these from answers of MATH; how a form was made is its truth.
TEST(MathEqual, JudgesRewrittenAnswersByHowTheyWereMade) {
  std::ifstream file(std::string(QAD_SOURCE_DIR) + "/tests/golden/math_pairs.jsonl");
  std::string line;
  int pairs = 0;
  for (; std::getline(file, line); ++pairs) {
    const Json row = Json::parse(line);
    EXPECT_EQ(math_equal(row["reference"].get<std::string>(), row["answer"].get<std::string>()),
              row["equal"].get<bool>())
        << line;
  }
  EXPECT_EQ(pairs, 200);
}

std::string repeated(std::string_view part, int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += part;
  return text;
}

// What keeps other graders busy for hours: verdicts all the same.
TEST(MathEqual, AnswersThatAreTooMuchAreCompared) {
  const std::string hostile[] = {
      "9^{9^{9^{9^9}}}",
      "(10^{9999})!",
      "((9!)!)!",
      "\\binom{10^{50}}{10^{49}}",
      "1e99999",
      "2^{99999999}-1",
      "\\frac{1}{2^{99999999}}\\sqrt{2}",
      "(x^{99999}+1)^{99999}",
      "\\sin(10^{4000})",
      repeated("(", 4000),
      repeated("{", 4000),
      repeated("\\frac{", 1000),
      repeated("\\sqrt", 1500),
      repeated("-", 8000) + "1",
      repeated("|", 8000),
      repeated("x^", 4000) + "x",
      repeated("1/", 4000) + "1",
      "1" + repeated("!", 8000),
      "1" + repeated("%", 8000),
      "1" + repeated("\\pm 1", 1000),
      repeated("(((((((((x+1)^9+1)^9+1)^9+1)^9+1)^9+1)^9+1)^9+1)^9+1)^9+", 20) + "1",
      repeated("x,", 4000) + "y",
      repeated("\\{1,2,\\{", 100) + repeated("\\}\\}", 100),
      repeated("(0,1)\\cup", 500) + "(2,3)",
      repeated("9", 8000),
      repeated("\\text{", 1000),
      std::string(100'000, '1'),
      std::string("\0\xff\xfe", 3),
      "\\",
      "\\begin{pmatrix}",
      "_",
      "^",
      "}",
      "\\}",
      "$",
      "=",
      ",",
      "\\left.",
      "5_{",
      "\\sqrt[",
      "\\frac1",
  };
  for (const std::string& answer : hostile) {
    EXPECT_FALSE(math_equal("42", answer)) << answer.substr(0, 60);
    EXPECT_FALSE(math_equal(answer, "42")) << answer.substr(0, 60);
    EXPECT_TRUE(math_equal(answer, answer)) << answer.substr(0, 60);
  }
  for (const std::string& one : hostile) {
    for (const std::string& other : hostile) {
      const bool verdict = math_equal(one, other);
      EXPECT_EQ(verdict, &one == &other) << one.substr(0, 60) << " and " << other.substr(0, 60);
    }
  }
}

TEST(MathEqual, NothingIsNoAnswer) {
  EXPECT_FALSE(math_equal("", ""));
  EXPECT_FALSE(math_equal("5", ""));
  EXPECT_FALSE(math_equal("", "5"));
  EXPECT_FALSE(math_equal("$$", "$ $"));
}

}  // namespace
}  // namespace qad::score
