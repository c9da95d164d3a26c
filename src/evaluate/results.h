// What models answered to tasks and what it earned: one JSON file a run, with every response, so
// that scores can be had again without the model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/file.h"
#include "evaluate/statistics.h"
#include "evaluate/task.h"

namespace qad::evaluate {

// What a response earned: `passed` of `total` points, 1 of 1 for a right answer.
struct Metric {
  std::string name;
  Points points;
};

struct Response {
  std::int64_t problem = 0, sample = 0, step = 0;  // step: of a problem with parts
  std::string text, finish_reason;                 // "stop" or "length"
  std::int64_t tokens = 0;
  // By score():
  std::string answer;           // what was taken for it
  std::string verdict;          // why it earned what it did, in a few words
  std::vector<Metric> metrics;  // the first is the task's figure; the same for all of a task
};

struct TaskResults {
  Task task;
  struct Asked {
    std::string id, prompt, reference;  // prompt: the first step's last message
  };
  std::vector<Asked> problems;
  std::vector<Response> responses;  // in the order of problem, sample, step
};

struct Results {
  std::string model, fingerprint, label;  // label: in tables; the model's path unless said
  std::string date;                       // ISO 8601, UTC
  std::uint64_t seed = 0;
  std::vector<TaskResults> tasks;
};

// The figures of one metric: points of each problem over all of its samples.
struct MetricSummary {
  std::string name;
  std::vector<Points> problems;
  Estimate estimate;
};
std::vector<MetricSummary> summarize(const TaskResults& task);

Json to_json(const Results& results);
void write_results(const fs::path& file, const Results& results);
// Error "[results] ..." for a file that is none.
Results read_results(const fs::path& file);
Results results_of(const Json& json, const std::string& where);

// Whether two runs asked the same: problems, samples, sampling and seed. Empty, or what differs.
std::string difference_of_protocol(const Results& a, const TaskResults& in_a, const Results& b,
                                   const TaskResults& in_b);

}  // namespace qad::evaluate
