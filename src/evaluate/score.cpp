// The kinds of extraction and of scoring, by their words in task.h.
#include "evaluate/score.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <span>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "evaluate/judge.h"
#include "score/instruction_regex.h"
#include "score/instructions.h"
#include "score/math.h"
#include "score/program.h"

namespace qad::evaluate {
namespace {

constexpr const char* kAccuracy = "accuracy";
constexpr const char* kNoAnswer = "no answer found";

std::string trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1));
}

// The letter of a choice: boxed, behind the word "answer", or the response itself.
std::string letter_of(std::string_view response, std::size_t choices) {
  const std::string letters = fmt::format("[A-{}]", static_cast<char>('A' + choices - 1));
  const auto last = [&](const std::string& pattern, std::string_view text) {
    return score::PythonRegex(pattern).last_group(text).value_or("");
  };
  if (const auto boxed = score::last_boxed(response)) {
    const std::string letter =
        last(R"(^[^\w]*(?:\\text\w*\{)?[^\w]*()" + letters + R"()\b)", *boxed);
    if (!letter.empty()) return letter;
  }
  for (const std::string& before :
       {std::string(R"([Aa][Nn][Ss][Ww][Ee][Rr](?:\s+is)?[\s:*_(\[$\\{]*)"),
        std::string(R"(^[\s*_(\[]*)")}) {
    const std::string letter = last(before + "(" + letters + R"()(?![\w'’]))", response);
    if (!letter.empty()) return letter;
  }
  return {};
}

// Case, outer space and a closing full stop do not matter.
std::string folded(std::string_view text) {
  std::string s = trimmed(text);
  while (!s.empty() && (s.back() == '.' || s.back() == '!' || s.back() == ' ')) s.pop_back();
  std::transform(s.begin(), s.end(), s.begin(),
                 [](unsigned char c) { return c < 128 ? static_cast<char>(std::tolower(c)) : c; });
  return s;
}

std::string extract(const Task& task, const Problem& problem, std::string_view text) {
  if (task.extract == "final") return score::final_answer(text);
  if (task.extract == "boxed") return score::last_boxed(text).value_or("");
  if (task.extract == "number") return score::last_number(text).value_or("");
  if (task.extract == "letter")
    return letter_of(text, std::max<std::size_t>(problem.choices.size(), 1));
  if (task.extract == "regex")
    return score::PythonRegex(task.pattern).last_group(text).value_or("");
  return trimmed(text);
}

void set_accuracy(Response& r, bool right, std::string why) {
  r.metrics = {{kAccuracy, {right ? 1.0 : 0.0, 1}}};
  r.verdict = right ? "right" : std::move(why);
}

void score_answer(const Task& task, const Problem& problem, Response& r) {
  r.answer = extract(task, problem, without_thinking(r.text));
  bool right = false;
  if (!r.answer.empty()) {
    if (task.score == "math")
      right = score::math_equal(problem.reference, r.answer);
    else
      right = folded(r.answer) == folded(problem.reference);
  }
  set_accuracy(r, right, r.answer.empty() ? kNoAnswer : "wrong");
}

void score_instructions(const Problem& problem, Response& r) {
  const auto verdicts =
      score::check_instructions(problem.fields, trimmed(without_thinking(r.text)));
  Points strict, loose, exact;
  std::string failed;
  for (const auto& v : verdicts) {
    strict.passed += v.strict;
    loose.passed += v.loose;
    if (score::is_exact(v.id)) {
      exact.passed += v.strict;
      ++exact.total;
    }
    if (!v.strict)
      failed += (failed.empty() ? "" : ", ") + v.id + (v.loose ? " (loose holds)" : "");
  }
  strict.total = loose.total = static_cast<double>(verdicts.size());
  const auto whole = [](const Points& p) { return Points{p.passed == p.total ? 1.0 : 0.0, 1}; };
  r.metrics = {{"instructions, strict", strict},
               {"instructions, loose", loose},
               {"prompts, strict", whole(strict)},
               {"prompts, loose", whole(loose)},
               {"instructions without a language model, strict", exact}};
  r.verdict = failed.empty() ? "right" : "failed: " + failed;
}

bool is_program(const Task& task) {
  return task.score == "humaneval" || task.score == "mbpp" || task.score == "livecodebench" ||
         task.score == "scicode";
}

// Calls work(i) for i in [0, n) on some threads, `progress` on this one. The first Error ends it.
void in_parallel(std::int64_t n, std::int64_t threads,
                 const std::function<void(std::int64_t)>& work,
                 const std::function<void(std::int64_t)>& progress) {
  std::atomic<std::int64_t> next = 0;
  std::int64_t done = 0, told = 0;
  std::exception_ptr error;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::thread> pool;
  std::int64_t alive = std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(n, 1));
  const std::int64_t started = alive;
  for (std::int64_t t = 0; t < started; ++t)
    pool.emplace_back([&] {
      for (std::int64_t i = next++; i < n; i = next++) {
        std::exception_ptr thrown;
        try {
          work(i);
        } catch (...) {
          thrown = std::current_exception();
          next = n;
        }
        const std::lock_guard lock(mutex);
        if (thrown && !error) error = thrown;
        ++done;
        changed.notify_one();
      }
      const std::lock_guard lock(mutex);
      --alive;
      changed.notify_one();
    });
  std::unique_lock lock(mutex);
  while (alive > 0) {
    changed.wait(lock, [&] { return done > told || alive == 0; });
    told = done;
    if (progress) {
      lock.unlock();
      progress(told);
      lock.lock();
    }
  }
  lock.unlock();
  for (std::thread& thread : pool) thread.join();
  if (error) std::rethrow_exception(error);
}

score::ProgramKind kind_of(const Task& task) {
  if (task.score == "humaneval") return score::ProgramKind::humaneval;
  if (task.score == "mbpp") return score::ProgramKind::mbpp;
  if (task.score == "livecodebench") return score::ProgramKind::livecodebench;
  return score::ProgramKind::scicode;
}

score::ProgramOptions options_of(const Task& task) {
  score::ProgramOptions options;
  options.limits = score::program_limits(kind_of(task));
  if (task.timeout > 0) {
    options.limits.cpu_seconds = task.timeout;
    options.limits.wall_seconds = std::max(options.limits.wall_seconds, 4 * task.timeout);
  }
  options.python = task.python;
  if (task.score == "scicode" && !task.tests.empty())
    options.scicode_targets = fs::absolute(task.tests);
  return options;
}

// The responses of one sample to the steps of its problem: a run of equal (problem, sample).
using Steps = std::span<Response>;

// What programs are held to, by problem: of LiveCodeBench the tests, unpacked once.
std::vector<Json> programs_of(const Task& task, const std::vector<Problem>& problems) {
  std::vector<Json> all;
  if (task.score != "livecodebench") {
    for (const Problem& p : problems) all.push_back(p.fields);
    return all;
  }
  std::map<std::string, Json> tests;  // of a file of their own
  if (!task.tests.empty()) {
    std::istringstream lines(read_text(task.tests));
    std::int64_t number = 0;
    for (std::string line; std::getline(lines, line);) {
      Json json = parse_json(line, fmt::format("{}:{}", task.tests, ++number));
      check(json.is_object() && json.contains("question_id"), "task",
            "{}:{}: expected an object with question_id", task.tests, number);
      const std::string id = json["question_id"].get<std::string>();
      tests[id] = std::move(json);
    }
  }
  for (const Problem& p : problems) {
    const auto own = tests.find(p.id);
    check(task.tests.empty() || own != tests.end(), "task", "{}: problem {}: no tests in {}",
          task.name, p.id, task.tests);
    all.push_back(
        score::livecodebench_tests(own == tests.end() ? p.fields : own->second, options_of(task)));
  }
  return all;
}

void score_program(const Task& task, const Problem& problem, const Json& program, Steps steps) {
  const score::ProgramOptions options = options_of(task);
  std::vector<std::string> said;
  for (Response& r : steps) {
    r.answer = score::extract_code(without_thinking(r.text));
    const Json step =
        task.score == "scicode" ? score::scicode_step(problem.fields, said.size(), said) : Json();
    said.emplace_back(without_thinking(r.text));
    // Three steps of SciCode have no tests: what they say only serves the steps behind them.
    if (task.score == "scicode" && problem.steps[said.size() - 1]["test_cases"].empty()) {
      r.metrics = {{kAccuracy, {0, 0}}};
      r.verdict = "not judged: this step has no tests";
      continue;
    }
    const auto verdict =
        score::judge_program(kind_of(task), step.is_null() ? program : step, said.back(), options);
    set_accuracy(r, verdict.passed, verdict.reason);
  }
}

void score_judged(const Task& task, const Problem& problem, Response& r) {
  r.answer = trimmed(without_thinking(r.text));
  const std::string said =
      trimmed(ask({task.judge_url, task.judge_model}, judge_message(task, problem, r.answer)));
  const bool wrong = said.find("INCORRECT") != std::string::npos;
  const bool right = !wrong && said.find("CORRECT") != std::string::npos;
  set_accuracy(r, right, wrong ? "wrong" : "the judge said neither: " + said.substr(0, 200));
}

}  // namespace

void check_can_score(const Task& task, const std::vector<Problem>& problems) {
  if (task.score == "judge") {
    check(!task.judge_url.empty(), "task",
          "{}: judge_url: no endpoint is given; say --set {}.judge_url=URL", task.name, task.name);
    check_judge({task.judge_url, task.judge_model});
  }
  if (is_program(task)) {
    if (const auto lacks = score::program_lacks(kind_of(task), options_of(task)))
      fail("task", "{}: {}{}", task.name, *lacks,
           task.tests.empty() && task.score == "scicode"
               ? fmt::format("; say --set {}.tests=FILE", task.name)
               : "");
  }
  if (task.score == "livecodebench") programs_of(task, problems);
  // Problems that can't be judged are found before a model writes for hours.
  if (task.score == "instructions")
    for (const Problem& problem : problems) score::check_instructions(problem.fields, "x");
}

void score(const Task& task, const std::vector<Problem>& problems, std::vector<Response>& responses,
           std::int64_t threads, const std::function<void(std::int64_t)>& progress) {
  std::vector<Steps> samples;
  for (std::size_t begin = 0; begin < responses.size();) {
    std::size_t end = begin + 1;
    while (end < responses.size() && responses[end].problem == responses[begin].problem &&
           responses[end].sample == responses[begin].sample)
      ++end;
    samples.push_back(Steps(responses).subspan(begin, end - begin));
    begin = end;
  }
  const std::vector<Json> programs =
      is_program(task) ? programs_of(task, problems) : std::vector<Json>();
  const auto work = [&](std::int64_t i) {
    const Steps steps = samples[static_cast<std::size_t>(i)];
    const Problem& problem = problems[static_cast<std::size_t>(steps[0].problem)];
    if (is_program(task))
      return score_program(task, problem, programs[static_cast<std::size_t>(steps[0].problem)],
                           steps);
    for (Response& r : steps) {
      if (task.score == "instructions")
        score_instructions(problem, r);
      else if (task.score == "judge")
        score_judged(task, problem, r);
      else
        score_answer(task, problem, r);
    }
  };
  in_parallel(static_cast<std::int64_t>(samples.size()), threads, work, progress);
}

std::string step_answer(const Task& task, std::string_view response) {
  if (task.score == "scicode") return score::extract_code(without_thinking(response));
  return std::string(without_thinking(response));
}

std::string_view without_thinking(std::string_view response) {
  constexpr std::string_view kEnd = "</think>";
  const std::size_t at = response.rfind(kEnd);
  return at == std::string_view::npos ? response : response.substr(at + kEnd.size());
}

}  // namespace qad::evaluate
