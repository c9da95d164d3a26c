// LiveCodeBench: one process a test, so that each has the benchmark's time, up to the first that
// fails.
#include <algorithm>
#include <cctype>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "score/program.h"
#include "score/program_run.h"

namespace qad::score {
namespace {

// The code finds names as the benchmark gives them: those of many modules, and the modules. It is a
// file of its own, so that its lines have their numbers and __future__ may come first.
constexpr const char* kPrelude = R"(import json, os, sys
sys.setrecursionlimit(50000)
names = ("string re datetime collections heapq bisect copy math random statistics itertools "
         "functools operator io sys json builtins typing").split()
space = {"__name__": "solution"}
exec("\n".join([f"from {name} import *" for name in names]), space)
exec("\n".join([f"import {name}" for name in names]), space)
with open("solution.py", encoding="utf-8") as file:
    source = file.read()
)";

constexpr const char* kStreams = R"(space["__name__"] = "__main__"
try:
    exec(compile(source, "solution.py", "exec"), space)
except SystemExit:
    pass
)";

// {}: the exit codes kPassed and kWrong.
constexpr const char* kCall = R"(test = json.load(sys.stdin)
exec(compile(source, "solution.py", "exec"), space)
function = test["function"]
call = getattr(space["Solution"](), function) if "Solution" in space else space[function]
result = call(*[json.loads(line) for line in test["input"].split("\n")])
if isinstance(result, tuple):
    result = list(result)
os._exit({} if result == json.loads(test["output"]) else {})
)";

constexpr const char* kUnpack = R"(import base64, pickle, sys, zlib
sys.stdout.write(pickle.loads(zlib.decompress(base64.b64decode(sys.stdin.read()))))
)";

Json unpack(std::string_view packed, ProgramOptions options) {
  options.limits = {.wall_seconds = 600, .cpu_seconds = 600};
  options.limits.memory_bytes = std::int64_t{8} << 30;
  options.limits.output_bytes = std::int64_t{2} << 30;
  const auto result = run_python(kUnpack, {}, std::string(packed), options);
  check(result.end == SandboxResult::End::exited && result.code == 0, "livecodebench_tests",
        "private_test_cases: expected JSON, or base64 of a compressed pickle of it; {}",
        result.error);
  return parse_json(result.output, "private_test_cases");
}

// The field, or what its text says; null if there is none.
Json field_of(const Json& problem, const char* key, const ProgramOptions& options) {
  const auto found = problem.find(key);
  if (found == problem.end()) return nullptr;
  if (!found->is_string()) return *found;
  const auto& text = found->get_ref<const std::string&>();
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == text.npos) return nullptr;
  return text[first] == '[' || text[first] == '{' ? parse_json(text, key) : unpack(text, options);
}

bool is_plain(const Json& problem) {
  const auto found = problem.find("input_output");
  return found != problem.end() && found->is_object();
}

void check_tests(const Json& tests) {
  const auto all_texts = [&](const char* key) {
    return tests.contains(key) && tests[key].is_array() && !tests[key].empty() &&
           std::all_of(tests[key].begin(), tests[key].end(),
                       [](const Json& text) { return text.is_string(); });
  };
  check(all_texts("inputs") && all_texts("outputs") &&
            tests["inputs"].size() == tests["outputs"].size(),
        "judge_program",
        "expected as many texts in \"inputs\" as in \"outputs\", and one at least");
  check(!tests.contains("fn_name") || tests["fn_name"].is_string() || tests["fn_name"].is_null(),
        "judge_program", "expected fn_name to be a text");
}

std::string_view strip(std::string_view text) {
  constexpr const char* kBlank = " \t\n\r\f\v";
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) + 1 - begin);
}

// Parts between separators; with `blank`, any run of blanks separates.
std::vector<std::string_view> split(std::string_view text, const char* separators, bool blank) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t end = std::min(text.find_first_of(separators), text.size());
    if (end > 0 || !blank) parts.push_back(text.substr(0, end));
    if (end == text.size()) return parts;
    text.remove_prefix(end + 1);
  }
}

// digits * 10^exponent, without zeros at either end of the digits; so equal numbers look equal.
struct Decimal {
  bool valid = false, negative = false;
  std::string digits{};
  std::int64_t exponent = 0;
  bool operator==(const Decimal&) const = default;
};

Decimal decimal_of(std::string_view text) {
  Decimal number;
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    number.negative = text[0] == '-';
    text.remove_prefix(1);
  }
  const std::string_view mantissa = text.substr(0, text.find_first_of("eE"));
  std::string_view power = text.substr(mantissa.size());
  const std::size_t point = std::min(mantissa.find('.'), mantissa.size());
  for (std::size_t i = 0; i < mantissa.size(); ++i) {
    if (i == point) continue;
    if (!is_digit(mantissa[i])) return {};
    number.digits += mantissa[i];
  }
  if (number.digits.empty()) return {};
  if (point < mantissa.size())
    number.exponent -= static_cast<std::int64_t>(mantissa.size() - point - 1);
  if (!power.empty()) {
    power.remove_prefix(1);
    const bool minus = !power.empty() && power[0] == '-';
    if (!power.empty() && (minus || power[0] == '+')) power.remove_prefix(1);
    constexpr std::size_t kLongest = 9;
    if (power.empty() || power.size() > kLongest ||
        !std::all_of(power.begin(), power.end(), is_digit))
      return {};
    const std::int64_t value = std::stoll(std::string(power));
    number.exponent += minus ? -value : value;
  }
  number.valid = true;
  const std::size_t first = number.digits.find_first_not_of('0');
  if (first == std::string::npos) return {.valid = true};
  const std::size_t last = number.digits.find_last_not_of('0');
  number.exponent += static_cast<std::int64_t>(number.digits.size() - last - 1);
  number.digits = number.digits.substr(first, last + 1 - first);
  return number;
}

bool same_numbers(std::string_view a, std::string_view b) {
  const auto of_a = split(a, " \t\r\f\v", true), of_b = split(b, " \t\r\f\v", true);
  return std::equal(of_a.begin(), of_a.end(), of_b.begin(), of_b.end(),
                    [](std::string_view x, std::string_view y) {
                      const Decimal number = decimal_of(x);
                      return number.valid && number == decimal_of(y);
                    });
}

}  // namespace

bool same_output(std::string_view output, std::string_view expected) {
  const auto lines = split(strip(output), "\n", false),
             wanted = split(strip(expected), "\n", false);
  return std::equal(lines.begin(), lines.end(), wanted.begin(), wanted.end(),
                    [](std::string_view a, std::string_view b) {
                      return strip(a) == strip(b) || same_numbers(a, b);
                    });
}

Json livecodebench_tests(const Json& problem, const ProgramOptions& options) {
  Json plain;
  if (problem.contains("question_id")) plain["question_id"] = problem["question_id"];
  Json& tests = plain["input_output"] = field_of(problem, "input_output", options);
  if (tests.is_null()) {
    tests = {{"inputs", Json::array()}, {"outputs", Json::array()}};
    for (const char* key : {"public_test_cases", "private_test_cases"}) {
      for (const Json& test : field_of(problem, key, options)) {
        tests["inputs"].push_back(text_of(test, "input"));
        tests["outputs"].push_back(text_of(test, "output"));
      }
    }
    const Json metadata = field_of(problem, "metadata", options);
    if (metadata.is_object() && metadata.contains("func_name"))
      tests["fn_name"] = metadata["func_name"];
  }
  check_tests(tests);
  return plain;
}

ProgramVerdict judge_livecodebench(const Json& problem, std::string_view response,
                                   const ProgramOptions& options) {
  if (!is_plain(problem))
    return judge_livecodebench(livecodebench_tests(problem, options), response, options);
  const Json& tests = problem["input_output"];
  check_tests(tests);
  const bool streams = !tests.contains("fn_name") || tests["fn_name"].is_null();
  const std::string program =
      kPrelude + (streams ? std::string(kStreams) : fmt::format(kCall, kPassed, kWrong));
  const std::string code = extract_code(response);
  ProgramVerdict all{.passed = true};
  for (std::size_t i = 0; i < tests["inputs"].size() && all.passed; ++i) {
    const auto& input = tests["inputs"][i].get_ref<const std::string&>();
    const auto& output = tests["outputs"][i].get_ref<const std::string&>();
    const Json call = {
        {"function", streams ? Json() : tests["fn_name"]}, {"input", input}, {"output", output}};
    const auto result =
        run_python(program, {{"solution.py", code}}, streams ? input : call.dump(), options);
    ProgramVerdict one = verdict_of(result);
    if (streams && result.end == SandboxResult::End::exited && result.code == 0) {
      one.passed = same_output(result.output, output);
      one.reason = one.passed ? "" : "wrong answer";
    }
    all.passed = one.passed;
    all.seconds += one.seconds;
    if (!one.passed) all.reason = fmt::format("{} in test {}", one.reason, i + 1);
  }
  return all;
}

}  // namespace qad::score
