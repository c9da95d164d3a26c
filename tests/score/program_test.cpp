#include "score/program.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <thread>
#include <vector>

#include "core/scratch.h"

namespace qad::score {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StartsWith;

std::vector<Json> lines_of(const char* name) {
  const fs::path path = fs::path(QAD_SOURCE_DIR) / "data/benchmarks" / name;
  std::ifstream file(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);)
    lines.push_back(parse_json(line, path.string()));
  return lines;
}

ProgramVerdict judge(ProgramKind kind, const Json& problem, std::string_view response) {
  ProgramOptions options;
  options.limits = program_limits(kind);
  return judge_program(kind, problem, response, options);
}

std::string fenced(std::string_view code) {
  return fmt::format("Here you are:\n\n```python\n{}\n```\nIt is quick.", code);
}

TEST(ExtractCode, TakesTheLastPythonBlock) {
  EXPECT_EQ(extract_code("a\n```python\nx = 1\n```\nb\n```py\nx = 2\n\n```\n```\n2\n```\n"),
            "x = 2\n\n");
  EXPECT_EQ(extract_code("```\nx = 1\n```\n```bash\npip\n```"), "x = 1\n");
  EXPECT_EQ(extract_code("x = 1\n"), "x = 1\n");
  EXPECT_EQ(extract_code("```python\nx = 1"), "x = 1");
  EXPECT_EQ(extract_code("```Python title=\"a\"\r\nx = 1\r\n```\r\n"), "x = 1\r\n");
  EXPECT_EQ(extract_code("```python\n```"), "");
  EXPECT_EQ(extract_code(""), "");
}

TEST(ExtractCode, KnowsFences) {
  EXPECT_EQ(extract_code("````python\ns = '''\n```\n'''\n````"), "s = '''\n```\n'''\n");
  EXPECT_EQ(extract_code("~~~python\ns = '```'\n```\n~~~"), "s = '```'\n```\n");
  EXPECT_EQ(extract_code("1. so:\n   ```python\n   if x:\n     y\n  z\n   ```"), "if x:\n  y\nz\n");
  EXPECT_EQ(extract_code("```python\nx = 1\n```\nNow ```x``` is 1"), "x = 1\n");
}

TEST(ExtractCode, PrefersTheBlockThatDefinesTheFunction) {
  const std::string two =
      "```python\ndef f(x): return x\n```\nTry it:\n```python\nprint(f(1))\n```";
  EXPECT_EQ(extract_code(two, "f"), "def f(x): return x\n");
  EXPECT_EQ(extract_code(two, "g"), "print(f(1))\n");
  EXPECT_EQ(extract_code("```\ndef f(x): return x\n```\n```python\nf(1)\n```", "f"),
            "def f(x): return x\n");
}

// Python's decimal and str.strip are the definition.
TEST(SameOutput, ComparesLinesAndDecimals) {
  for (const auto& [a, b] :
       std::vector<std::pair<const char*, const char*>>{{"1 2\n3\n", "1 2\n3"},
                                                        {"\n\n 1 2 \r\n3  \n\n", "1 2\n3"},
                                                        {"Yes", "Yes\n"},
                                                        {"1.50", "1.5"},
                                                        {"1.0", "1"},
                                                        {"-0.0", "0"},
                                                        {"1e3 .5", "1000 0.5"},
                                                        {"+7", "7"},
                                                        {"12E-1", "1.2"},
                                                        {"1.  2.", "1 2"},
                                                        {"", " \n"}}) {
    EXPECT_TRUE(same_output(a, b)) << a << " | " << b;
  }
  for (const auto& [a, b] :
       std::vector<std::pair<const char*, const char*>>{{"1 2", "1\n2"},
                                                        {"1\n\n2", "1\n2"},
                                                        {"yes", "Yes"},
                                                        {"1.0000001", "1"},
                                                        {"50000000000000000", "50000000000000001"},
                                                        {"1 2", "1 2 3"},
                                                        {"a 1.0", "a 1"},
                                                        {"1e", "1"},
                                                        {".", "0"},
                                                        {"-1", "1"},
                                                        {"", "0"}}) {
    EXPECT_FALSE(same_output(a, b)) << a << " | " << b;
  }
}

class Program : public testing::Test {
 protected:
  void SetUp() override {
    const auto lacks = program_lacks(ProgramKind::humaneval, {});
    if (lacks) GTEST_SKIP() << *lacks;
  }
};

const Json& incr() {
  static const Json problem = {{"prompt",
                                "from typing import List\n\ndef one(): return 1\n\n\ndef incr(x: "
                                "List[int]):\n    '''add 1'''\n"},
                               {"entry_point", "incr"},
                               {"test", "def check(f):\n    assert f([1, 2]) == [2, 3]\n"}};
  return problem;
}

TEST_F(Program, PassesEachFormOfHumanEvalResponse) {
  for (const std::string& response : std::vector<std::string>{
           "    return [a + 1 for a in x]\n",
           "    return [a + 1 for a in x]\n\ndef next(): it goes on\n",
           "    return [a + one() for a in x]\n\nprint(",
           "def incr(x: List[int]):\n    return [a + one() for a in x]\n",
           fenced("def incr(x: List[int]):\n    return [a + one() for a in x]"),
           fenced("    return [a + 1 for a in x]"),
           "```python\ndef incr(x): return [a + 1 for a in x]\n```\n```python\nassert incr([]) == "
           "[1]\n```"}) {
    const auto verdict = judge(ProgramKind::humaneval, incr(), response);
    EXPECT_TRUE(verdict.passed) << response << verdict.reason;
    EXPECT_EQ(verdict.reason, "");
  }
}

TEST_F(Program, FailsWithTheReason) {
  for (const auto& [body, reason] : std::vector<std::pair<const char*, const char*>>{
           {"return x", "AssertionError"},
           {"return y", "NameError: name 'y' is not defined"},
           {"return (", "SyntaxError: "},
           {"import sys; sys.exit(0)", "ended before its tests did"},
           {"import sys; sys.exit(5)", "exit code 5"},
           {"raise ValueError('\xc3\xa9')", "ValueError: ??"},
           {"import ctypes; ctypes.string_at(0)", "signal 11"},
           {"while True: print('x' * 10**6)", "too much output"}}) {
    const auto verdict = judge(ProgramKind::humaneval, incr(), fmt::format("    {}\n", body));
    EXPECT_FALSE(verdict.passed) << body;
    EXPECT_THAT(verdict.reason, StartsWith(reason));
  }
  ProgramOptions options;
  options.limits.cpu_seconds = 1;
  EXPECT_EQ(judge_program(ProgramKind::humaneval, incr(), "    while True: pass\n", options).reason,
            "timeout");
  EXPECT_FALSE(judge(ProgramKind::humaneval, incr(), "").passed);
  EXPECT_FALSE(judge(ProgramKind::humaneval, incr(), "I cannot.").passed);
  EXPECT_FALSE(
      judge(ProgramKind::humaneval, incr(), std::string("```python\n\xff\0\n```", 16)).passed);
}

TEST_F(Program, NamesWhatAProblemLacks) {
  const auto error = [](ProgramKind kind, const Json& problem) {
    return error_of([&] { judge(kind, problem, "x"); });
  };
  EXPECT_THAT(error(ProgramKind::humaneval, {{"prompt", "a"}}),
              HasSubstr("a text \"entry_point\""));
  EXPECT_THAT(error(ProgramKind::humaneval, {{"prompt", "a"}, {"entry_point", "f"}, {"test", ""}}),
              IsEmpty());
  EXPECT_THAT(error(ProgramKind::mbpp, {{"test_setup_code", ""}}), HasSubstr("expected test_list"));
  EXPECT_THAT(error(ProgramKind::livecodebench, {{"question_id", "1"}}), HasSubstr("\"inputs\""));
  EXPECT_THAT(error(ProgramKind::scicode, {}), HasSubstr("test_data.h5"));
}

TEST_F(Program, JudgesMbpp) {
  const Json problem = {{"test_setup_code", "one = f(0)"},
                        {"test_list", {"assert f(one) == 2", "assert f(3) == 4"}}};
  const std::string code = "def f(x):\r\n  return x + 1\r\n";
  for (const std::string& response :
       {code, fenced(code), "[BEGIN]\n" + code + "[DONE]\nMore", code + "\n[DONE]\n[BEGIN]"}) {
    EXPECT_TRUE(judge(ProgramKind::mbpp, problem, response).passed) << response;
  }
  EXPECT_EQ(judge(ProgramKind::mbpp, problem, "def f(x): return 2 * x + 1").reason,
            "AssertionError");
}

TEST_F(Program, JudgesStreamsOfLiveCodeBench) {
  const Json problem = {
      {"question_id", "a1"},
      {"input_output", R"({"inputs": ["2\n1 2\n", "1\n5\n"], "outputs": ["3.0\n", "5"]})"}};
  for (const char* code :
       {"n = int(input())\nprint(sum(map(int, input().split())))",
        "from __future__ import annotations\nimport sys\ndef main():\n  print(sum(map(float, "
        "sys.stdin.read().split()[1:])))\n"
        "if __name__ == '__main__':\n  main()\n  sys.exit(1)",
        "input(); print(reduce(add, [int(x) for x in input().split()]), '\\n')"}) {  // names that
                                                                                     // are there
    const auto verdict = judge(ProgramKind::livecodebench, problem, fenced(code));
    EXPECT_TRUE(verdict.passed) << code << verdict.reason;
  }
  EXPECT_EQ(judge(ProgramKind::livecodebench, problem, "print(3)").reason,
            "wrong answer in test 2");
  EXPECT_EQ(judge(ProgramKind::livecodebench, problem, "print(3 / 0)").reason,
            "ZeroDivisionError: division by zero in test 1");
}

TEST_F(Program, JudgesFunctionsOfLiveCodeBench) {
  const Json problem = {
      {"question_id", 7},
      {"public_test_cases",
       R"([{"input": "[1, 2]\n\"a\"", "output": "[3, \"a\"]", "testtype": "functional"}])"},
      // base64(zlib.compress(pickle.dumps(json.dumps([{"input": "[]\n\"b\"", "output": "[0,
      // \"b\"]"}]))))
      {"private_test_cases",
       "eJxrYJlqwgABPQbR1UqZeQWlJUpWCkrRsTF5MUpJMUpKOgpK+aUlMGEDHQWwcKxSbewUPQD6vBDf"},
      {"metadata", R"({"func_name": "total"})"}};
  const Json plain = livecodebench_tests(problem, {});
  EXPECT_EQ(
      plain,
      parse_json(R"({"question_id": 7, "input_output": {"inputs": ["[1, 2]\n\"a\"", "[]\n\"b\""],
      "outputs": ["[3, \"a\"]", "[0, \"b\"]"], "fn_name": "total"}})",
                 "expected"));
  const std::string right =
      "class Solution:\n  def total(self, x: List[int], s):\n    return sum(x), s";
  EXPECT_TRUE(judge(ProgramKind::livecodebench, problem, right).passed);
  EXPECT_TRUE(judge(ProgramKind::livecodebench, plain, fenced(right)).passed);
  EXPECT_TRUE(
      judge(ProgramKind::livecodebench, plain, "def total(x, s): return [sum(x), s]").passed);
  EXPECT_EQ(judge(ProgramKind::livecodebench, plain, "def total(x, s): return [3, 'a']").reason,
            "wrong answer in test 2");
  EXPECT_EQ(judge(ProgramKind::livecodebench, plain, "def other(x, s): return [3, 'a']").reason,
            "KeyError: 'total' in test 1");
}

TEST_F(Program, TakesAPythonElsewhere) {
  const ScratchFolder folder;
  fs::permissions(folder.path(), fs::perms(0755));
  fs::create_directories(folder / "env/bin");
  fs::create_symlink("/usr/bin/python3", folder / "env/bin/python");
  write_file(folder / "env/pyvenv.cfg", "home = /usr/bin\n");
  const std::string version =
      "import sys; print('lib/python%d.%d/site-packages' % sys.version_info[:2])";
  std::string site = run_in_sandbox({.command = {"python3", "-c", version}}).output;
  site.pop_back();
  fs::create_directories(folder / "env" / site);
  write_file(folder / "env" / site / "installed_there.py", "x = 5");
  ProgramOptions options;
  options.python = (folder / "env/bin/python").string();
  const Json problem = {{"test_setup_code", ""}, {"test_list", {"assert installed_there.x == 5"}}};
  const auto verdict = judge_program(ProgramKind::mbpp, problem, "import installed_there", options);
  EXPECT_TRUE(verdict.passed) << verdict.reason;
  options.python = "/bin/python3";
  EXPECT_EQ(program_lacks(ProgramKind::mbpp, options).value_or(""), "");
  options.python = "env/bin/python3";
  EXPECT_THAT(program_lacks(ProgramKind::mbpp, options).value_or(""), HasSubstr("absolute path"));
  options.python = "python-that-is-not";
  EXPECT_THAT(program_lacks(ProgramKind::mbpp, options).value_or(""), HasSubstr("cannot start"));
  options.python = (folder / "no/bin/python").string();
  EXPECT_THAT(program_lacks(ProgramKind::mbpp, options).value_or(""), HasSubstr("no Python there"));
}

// QAD_TEST_PYTHON names a Python with numpy, scipy < 1.14, sympy, h5py and matplotlib.
TEST_F(Program, JudgesSciCode) {
  const char* python = std::getenv("QAD_TEST_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "QAD_TEST_PYTHON names no Python with h5py";
  const ScratchFolder folder;
  fs::permissions(folder.path(), fs::perms(0755));
  const fs::path targets = folder / "test_data.h5";
  write_file(folder / "make.py", fmt::format(R"(import h5py, numpy as np
with h5py.File("{}", "w") as f:
    f["9.2/test1/var1"] = 7.0
    f["9.2/test2/var1"] = np.arange(3.0)
    f["9.2/test2/var2"] = "text"
    g = f.create_group("9.2/test3/var1")
    g["1.5"] = 2.0
    m = g.create_group("m/sparse_matrix")
    m["data"], m["indices"], m["indptr"], m["shape"] = [3.0], [1], [0, 1, 1], [2, 2]
    f["9.2/test4/var1/list/var1"] = [1.0, 2.0]
    f["9.2/test4/var1/list/var2"] = 4.0
)",
                                             targets.string()));
  ASSERT_EQ(std::system(fmt::format("{} {}", python, (folder / "make.py").string()).c_str()), 0);
  const Json problem = {{"required_dependencies", "import numpy as np\nimport scipy.sparse"},
                        {"sub_steps",
                         {{{"step_number", "9.1"}, {"test_cases", {"assert target"}}},
                          {{"step_number", "9.2"},
                           {"test_cases",
                            {"assert np.allclose(g(3), target)",
                             "from scicode.compare.cmp import cmp_tuple_or_list\n"
                             "assert cmp_tuple_or_list((np.arange(3) + 1e-12, 'text'), target)",
                             "from scicode.compare.cmp import are_dicts_close\n"
                             "assert are_dicts_close({1.5: 2.0, 'm': scipy.sparse.csr_matrix([[0, "
                             "3.0], [0, 0]])}, target)",
                             "assert cmp_tuple_or_list([np.array([1.0, 2.0]), 4.0], target)"}}}}}};
  ProgramOptions options;
  options.python = python;
  options.scicode_targets = targets;
  options.limits = program_limits(ProgramKind::scicode);
  ASSERT_EQ(program_lacks(ProgramKind::scicode, options).value_or(""), "");
  const std::vector<std::string> before = {fenced("def f(x): return 2 * x")};
  const Json step = scicode_step(problem, 1, before);
  const auto right =
      judge_program(ProgramKind::scicode, step, fenced("def g(x): return f(x) + 1"), options);
  EXPECT_TRUE(right.passed) << right.reason;
  EXPECT_EQ(judge_program(ProgramKind::scicode, step, "def g(x): return f(x)", options).reason,
            "AssertionError");
  EXPECT_THAT(error_of([&] {
                judge_program(ProgramKind::scicode, scicode_step(problem, 0, {}), "", options);
              }),
              HasSubstr("no targets of step 9.1"));
  EXPECT_THAT(error_of([&] { scicode_step(problem, 1, {}); }), HasSubstr("all before it"));
}

TEST(Benchmarks, SciCodeHasItsStepsAndTests) {
  const auto problems = lines_of("scicode.jsonl");
  EXPECT_EQ(problems.size(), 65u);
  std::size_t steps = 0;
  for (const Json& problem : problems) {
    std::vector<std::string> responses;
    for (std::size_t i = 0; i < problem["sub_steps"].size(); ++i) {
      steps += !scicode_step(problem, i, responses)["test_cases"].empty();
      responses.push_back("pass");
    }
  }
  EXPECT_EQ(steps, 288u);
}

// All problems with QAD_TEST_ALL set, else every fourth.
std::vector<Json> some(std::vector<Json> problems) {
  if (std::getenv("QAD_TEST_ALL") != nullptr) return problems;
  std::vector<Json> fourth;
  for (std::size_t i = 0; i < problems.size(); i += 4) fourth.push_back(std::move(problems[i]));
  return fourth;
}

// Judges a response to each problem on two threads; which ones failed, and why.
std::vector<std::string> failures(ProgramKind kind, const std::vector<Json>& problems,
                                  const std::function<std::string(const Json&)>& response) {
  std::vector<std::string> found(problems.size());
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = 0; (i = next++) < problems.size();) {
      const auto verdict = judge(kind, problems[i], response(problems[i]));
      if (!verdict.passed)
        found[i] = fmt::format("{}: {}", problems[i]["task_id"].dump(), verdict.reason);
    }
  };
  std::thread second(work);
  work();
  second.join();
  std::erase(found, "");
  return found;
}

TEST_F(Program, PassesHumanEvalsOwnSolutionsAlone) {
  auto problems = lines_of("humaneval.jsonl");
  ASSERT_EQ(problems.size(), 164u);
  problems = some(problems);
  EXPECT_THAT(failures(ProgramKind::humaneval, problems,
                       [](const Json& p) { return p["canonical_solution"].get<std::string>(); }),
              IsEmpty());
  EXPECT_THAT(
      failures(ProgramKind::humaneval, problems, [](const Json&) { return "    return None\n"; }),
      SizeIs(problems.size()));
}

TEST_F(Program, PassesMbppsOwnSolutionsAlone) {
  auto problems = lines_of("mbpp.jsonl");
  ASSERT_EQ(problems.size(), 500u);
  problems = some(problems);
  EXPECT_THAT(failures(ProgramKind::mbpp, problems,
                       [](const Json& p) { return fenced(p["code"].get<std::string>()); }),
              IsEmpty());
  const auto none = failures(ProgramKind::mbpp, problems, [](const Json&) { return "pass"; });
  EXPECT_THAT(none, SizeIs(problems.size()));
}

}  // namespace
}  // namespace qad::score
