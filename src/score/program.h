// Code benchmarks: takes the program out of a response, runs it with the problem's tests in the
// sandbox and says whether it passed. Everything here is Python.
//
//   HumanEval      Chen et al. 2021, arXiv 2107.03374     data/benchmarks/humaneval.jsonl
//   MBPP           Austin et al. 2021, arXiv 2108.07732   data/benchmarks/mbpp.jsonl (test: 11 to
//   510) LiveCodeBench  Jain et al. 2024, arXiv 2403.07974     problems and tests are the user's
//   SciCode        Tian et al. 2024, arXiv 2407.13168     data/benchmarks/scicode.jsonl; targets
//   are
//                                                         the user's
//
// Responses are answers: a model's reasoning has to be cut off before.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/file.h"
#include "core/json.h"
#include "score/sandbox.h"

namespace qad::score {

enum class ProgramKind { humaneval, mbpp, livecodebench, scicode };

// Time and memory a program may take: the benchmark's own where it names them (LiveCodeBench: 6 s
// and 4 GB a test, SciCode: half an hour), as CPU time, so that a busy machine fails nobody.
SandboxLimits program_limits(ProgramKind kind);

struct ProgramOptions {
  SandboxLimits limits{};  // of one process: of LiveCodeBench, one test
  // A name in the sandbox's PATH, or the absolute path of an interpreter elsewhere, as that of a
  // virtual environment; it and what it is installed with can then be read inside.
  std::string python = "python3";
  fs::path scicode_targets{};  // SciCode's test_data.h5, an absolute path
};

struct ProgramVerdict {
  bool passed = false;
  std::string reason{};  // if not: "AssertionError", "timeout", "wrong answer in test 3", ...
  double seconds = 0;    // wall time of all its processes
};

// What is missing on this machine for a kind of benchmark, and what to do; to be asked once, before
// texts are written.
std::optional<std::string> program_lacks(ProgramKind kind, const ProgramOptions& options);

// Judges one response. `problem` is
//   humaneval      a line of its file: prompt, entry_point, test
//   mbpp           a line of its file: test_setup_code, test_list
//   livecodebench  a line of the user's tests: see livecodebench_tests
//   scicode        what scicode_step returns
// Whatever the response does is a verdict; throws Error for a problem that lacks a field, and for
// what program_lacks would have said.
ProgramVerdict judge_program(ProgramKind kind, const Json& problem, std::string_view response,
                             const ProgramOptions& options);

// The last block fenced as Python that defines `name`, a function (any, if empty); without such a
// one the last Python block; without that the last fenced without a language; without any the whole
// response. A block that is not closed goes to the end.
std::string extract_code(std::string_view response, std::string_view name = {});

// Problems with tests as LiveCodeBench publishes them (code_generation_lite), one a line, to be
// matched by "question_id". Either
//   "input_output": {"inputs": [text, ...], "outputs": [text, ...], "fn_name": name or absent}
// or
//   "public_test_cases", "private_test_cases": [{"input": text, "output": text}, ...],
//   "metadata": {"func_name": name or absent}
// where each of these may also be a text with that JSON in it, and private_test_cases the published
// base64 of a zlib-compressed pickle of such a text (unpacked in a sandbox). With a function name a
// test's input has one JSON value a line, its arguments, and its output is the JSON of the result;
// without, they are stdin and stdout.
// Returns {"question_id": ..., "input_output": ...} in the first form, which judge_program takes
// without unpacking it for each sample again.
Json livecodebench_tests(const Json& problem, const ProgramOptions& options);

// LiveCodeBench's comparison: without blank ends the same number of lines, each the same but for
// blanks around, or the same decimal numbers (1.50 is 1.5; there is no tolerance).
bool same_output(std::string_view output, std::string_view expected);

// One sub-task of SciCode (index from 0): `problem` is a line of its file, `responses` those to the
// steps before. Three steps have no "test_cases" and are not to be judged, 288 have: for 13.6, 62.1
// and 76.3 the authors give the code (their eval/data), which then stands for a response.
Json scicode_step(const Json& problem, std::size_t index, std::span<const std::string> responses);

}  // namespace qad::score
