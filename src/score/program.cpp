// HumanEval and MBPP, whose programs are one text with their tests at the end, and what all kinds
// share.
#include "score/program.h"

#include <algorithm>

#include "core/error.h"
#include "score/program_run.h"

namespace qad::score {
namespace {

using End = SandboxResult::End;

constexpr std::size_t kLongestReason = 200;

std::string last_line(std::string_view text) {
  const std::size_t end = text.find_last_not_of(" \t\r\n");
  if (end == text.npos) return {};
  text = text.substr(0, end + 1);
  std::string line(text.substr(text.rfind('\n') + 1).substr(0, kLongestReason));
  const auto unprintable = [](char c) { return c < ' ' || c > '~'; };
  std::replace_if(line.begin(), line.end(), unprintable, '?');  // reasons go into JSON
  return line;
}

// An interpreter outside of /usr needs its environment and the installation that it points to.
std::vector<fs::path> folders_of(const fs::path& python) {
  if (!python.has_parent_path()) return {};
  check(python.is_absolute(), "judge_program", "{}: expected a name or an absolute path",
        python.string());
  std::error_code error;
  const fs::path real = fs::canonical(python, error);
  check(!error, "judge_program", "{}: no Python there: {}", python.string(), error.message());
  std::vector<fs::path> folders = {python.parent_path().parent_path(),
                                   real.parent_path().parent_path()};
  std::erase(folders, "/");  // of /bin/python3, which is seen anyway
  return folders;
}

// A bare completion ends where generation stops in Chen et al. 2021, or at what no function has.
std::string_view first_body(std::string_view completion) {
  for (const char* stop : {"\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@", "\n```"})
    completion = completion.substr(0, completion.find(stop));
  return completion;
}

// A response either goes on where the prompt ends or defines the function anew; in the second case
// it can still need what the prompt has before it, imports and helpers.
std::string humaneval_program(const Json& problem, std::string_view response) {
  const std::string_view prompt = text_of(problem, "prompt"),
                         name = text_of(problem, "entry_point");
  const std::string code = extract_code(response, name);
  const bool fenced = code != response;
  const std::size_t text = code.find_first_not_of('\n');
  const bool body = text != code.npos && (code[text] == ' ' || code[text] == '\t');
  std::string program;
  if (defines(code, name) || (fenced && !body)) {
    const std::size_t at = prompt.find(fmt::format("def {}(", name));
    check(at != prompt.npos, "judge_program", "the prompt does not define its entry_point {}",
          name);
    program = fmt::format("{}\n{}", prompt.substr(0, at), code);
  } else {
    program = fmt::format("{}{}", prompt, fenced ? code : first_body(code));
  }
  return fmt::format("{}\n{}\ncheck({})\n", program, text_of(problem, "test"), name);
}

std::string mbpp_program(const Json& problem, std::string_view response) {
  // The form of the paper's few-shot prompt.
  constexpr std::string_view kBegin = "[BEGIN]", kDone = "[DONE]";
  response = response.substr(0, response.find(kDone));
  const std::size_t begin = response.find(kBegin);
  if (begin != response.npos) response.remove_prefix(begin + kBegin.size());
  std::string program =
      fmt::format("{}\n{}\n", extract_code(response), text_of(problem, "test_setup_code"));
  check(problem.contains("test_list") && problem["test_list"].is_array(), "judge_program",
        "expected test_list, a list of assertions");
  for (const Json& test : problem["test_list"]) {
    check(test.is_string(), "judge_program", "expected the tests of test_list to be texts");
    program += fmt::format("{}\n", test.get_ref<const std::string&>());
  }
  return program;
}

ProgramVerdict judge_text(std::string program, const ProgramOptions& options) {
  program += fmt::format("\n__import__('os')._exit({})\n", kPassed);
  return verdict_of(run_python(program, {}, "", options));
}

}  // namespace

SandboxLimits program_limits(ProgramKind kind) {
  SandboxLimits limits;
  const auto seconds = [&](double cpu) {
    limits.cpu_seconds = cpu;
    limits.wall_seconds = 3 * cpu;
  };
  seconds(10);
  if (kind == ProgramKind::livecodebench) seconds(6);
  if (kind == ProgramKind::scicode) seconds(1800);
  if (kind == ProgramKind::livecodebench || kind == ProgramKind::scicode)
    limits.memory_bytes = std::int64_t{4} << 30;
  return limits;
}

ProgramVerdict judge_program(ProgramKind kind, const Json& problem, std::string_view response,
                             const ProgramOptions& options) {
  switch (kind) {
    case ProgramKind::humaneval:
      return judge_text(humaneval_program(problem, response), options);
    case ProgramKind::mbpp:
      return judge_text(mbpp_program(problem, response), options);
    case ProgramKind::livecodebench:
      return judge_livecodebench(problem, response, options);
    case ProgramKind::scicode:
      return judge_scicode(problem, response, options);
  }
  return {};
}

std::optional<std::string> program_lacks(ProgramKind kind, const ProgramOptions& options) {
  if (sandbox_lacks()) return sandbox_lacks();
  const bool scicode = kind == ProgramKind::scicode;
  // simps is among what SciCode's problems import; newer SciPy has dropped it.
  const auto* modules =
      "import h5py, matplotlib, numpy, scipy, sympy\n"
      "from scipy.integrate import simps\n";
  try {
    check(!scicode || !options.scicode_targets.empty(), "judge_program",
          "SciCode needs its numeric targets, the file test_data.h5 that its authors publish apart "
          "from the problems");
    const auto result =
        run_python(scicode ? modules : "", {}, "", options, options.scicode_targets);
    check(result.end == End::exited && result.code == 0, "judge_program",
          "{}: {}; name a Python (3.9 or newer) that has {}", options.python,
          last_line(result.error),
          scicode ? "numpy, scipy < 1.14, sympy, h5py, matplotlib" : "all its parts");
  } catch (const Error& e) {
    return e.what();
  }
  return std::nullopt;
}

SandboxResult run_python(std::string_view code, std::vector<SandboxFile> files, std::string input,
                         const ProgramOptions& options, const fs::path& show) {
  SandboxJob job;
  job.command = {options.python, "-B", "program.py"};
  job.files = std::move(files);
  job.files.push_back({"program.py", std::string(code)});
  job.input = std::move(input);
  // The same order of sets in each run; and one thread: how many there are else is the machine's.
  job.environment = {"PYTHONHASHSEED=0", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1",
                     "MKL_NUM_THREADS=1"};
  job.read_only = folders_of(options.python);
  if (!show.empty()) job.read_only.push_back(show);
  job.limits = options.limits;
  return run_in_sandbox(job);
}

ProgramVerdict verdict_of(const SandboxResult& result) {
  ProgramVerdict verdict;
  verdict.seconds = result.seconds;
  switch (result.end) {
    case End::wall_limit:
    case End::cpu_limit:
      verdict.reason = "timeout";
      return verdict;
    case End::memory_limit:
      verdict.reason = "too much memory";
      return verdict;
    case End::output_limit:
      verdict.reason = "too much output";
      return verdict;
    case End::signalled:
      verdict.reason = fmt::format("signal {}", result.code);
      return verdict;
    case End::exited:
      break;
  }
  check(result.code != kLacks, "judge_program", "{}", last_line(result.error));
  verdict.passed = result.code == kPassed;
  if (verdict.passed) return verdict;
  verdict.reason = result.code == kWrong ? "wrong answer" : last_line(result.error);
  if (result.code == 0) verdict.reason = "ended before its tests did";
  if (verdict.reason.empty()) verdict.reason = fmt::format("exit code {}", result.code);
  return verdict;
}

bool defines(std::string_view code, std::string_view name) {
  return fmt::format("\n{}", code).find(fmt::format("\ndef {}(", name)) != std::string::npos;
}

std::string_view text_of(const Json& problem, const char* key) {
  const auto found = problem.find(key);
  check(found != problem.end() && found->is_string(), "judge_program",
        "expected the problem to have a text \"{}\"", key);
  return found->get_ref<const std::string&>();
}

}  // namespace qad::score
