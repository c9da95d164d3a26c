// A model taken through tasks: prompts in, responses out and scored, one results file.
#pragma once

#include <optional>

#include "evaluate/results.h"
#include "generate/engine.h"
#include "models/model.h"
#include "report/benchmarks.h"
#include "text/tokenizer.h"

namespace qad::recipe {

struct BenchmarkModel {
  const models::Model& model;
  const text::Tokenizer& tokenizer;
  std::string path;   // of its checkpoint
  std::string label;  // in tables
};

struct BenchmarkJob {
  std::vector<evaluate::Task> tasks;
  fs::path out;              // the results' JSON; until they are whole, OUT.partial grows beside it
  std::uint64_t seed = 0;    // of samples and of the order of choices
  std::int64_t threads = 0;  // programs and judges at a time; 0: one a core
  generate::EngineOptions engine;
};

// A built-in task by its name, or that of a .yaml file.
evaluate::Task find_task(const std::string& name);

// The tasks called so, as find_task takes them, changed by a protocol (a name of
// task_folder()/protocols or a .yaml, or empty) and then by lines TASK.KEY=VALUE.
std::vector<evaluate::Task> tasks_of(const std::vector<std::string>& names,
                                     const std::string& protocol,
                                     const std::vector<std::string>& sets);

// What can be missing, before anything is written: Error for problems, tests, documents, judges and
// a sandbox that a task needs and does not have.
void check_benchmarks(const BenchmarkJob& job);

// Nothing when an interrupt ended it: the same job goes on from OUT.partial. If `out` has this very
// job's results already, they are returned. A sample depends on the model, its problem's number,
// its own and the seed, not on what is beside it. Throws Error for what check_benchmarks says, for
// an `out` or OUT.partial of another job, and for prompts that the engine's cache does not hold.
std::optional<evaluate::Results> run_benchmarks(const BenchmarkModel& model,
                                                const BenchmarkJob& job);

// Results of the same tasks side by side, the first model the one that others differ from. Of each
// task the problems that are judged differently come first among the samples. Throws Error for
// tasks that were not asked alike.
report::Benchmarks compare(const std::vector<evaluate::Results>& results,
                           std::size_t most_samples = 60);

// Judges the responses of `results` again, by the tasks' files as they are now.
void score_again(evaluate::Results& results, std::int64_t threads);

}  // namespace qad::recipe
