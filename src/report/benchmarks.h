// Benchmarks of several models for the terminal, the run's page, and a page of their own: scores
// with errors, differences from the first model with intervals, and what the models said.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qad::report {

struct Score {
  double mean = 0, se = 0, low = 0, high = 0;  // shares, 0..1 (of a difference -1..1); 95 %
};

struct BenchmarkRow {  // one figure of one task
  std::string task, metric;
  bool headline = false;                          // the task's own figure
  std::int64_t problems = 0, samples = 0;         // samples: of each problem
  std::vector<std::optional<Score>> scores;       // one for each model
  std::vector<std::optional<Score>> differences;  // from the first model, over the same problems
};

struct BenchmarkAnswer {
  std::string text, answer, verdict;
  bool right = false;
};
struct BenchmarkSample {
  std::string task, id, prompt, reference;
  std::vector<std::optional<BenchmarkAnswer>> answers;  // one for each model
};

struct Benchmarks {
  std::vector<std::string> models;
  std::vector<BenchmarkRow> rows;
  std::vector<BenchmarkSample> samples;
  std::int64_t samples_left_out = 0;
  std::vector<std::string> notes;
};

// In percent: rows of tasks, columns of models, behind each but the first its difference.
std::string benchmark_table(const Benchmarks& b);
// The part of a page; empty if there are no rows.
std::string benchmark_section(const Benchmarks& b);
// A page of its own.
std::string benchmark_page(const std::string& title, const Benchmarks& b);

}  // namespace qad::report
