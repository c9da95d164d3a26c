// Results of several models as the rows and samples of a page.
#include <algorithm>
#include <thread>

#include "core/console.h"
#include "core/error.h"
#include "evaluate/score.h"
#include "recipe/benchmarks.h"

namespace qad::recipe {
namespace {

constexpr std::string_view kOperation = "compare";

report::Score score_of(const evaluate::Estimate& e) {
  return {e.mean, e.se, e.low, e.high};
}

const evaluate::TaskResults* find(const evaluate::Results& results, const std::string& task) {
  for (const evaluate::TaskResults& t : results.tasks)
    if (t.task.name == task) return &t;
  return nullptr;
}

// One task in every model's results, null where a model was not asked.
using Columns = std::vector<const evaluate::TaskResults*>;

void add_rows(report::Benchmarks& b, const Columns& columns) {
  std::vector<std::vector<evaluate::MetricSummary>> summaries;
  for (const auto* c : columns)
    summaries.push_back(c ? evaluate::summarize(*c) : std::vector<evaluate::MetricSummary>());
  const std::size_t own = static_cast<std::size_t>(
      std::find_if(columns.begin(), columns.end(), [](auto* c) { return c != nullptr; }) -
      columns.begin());
  for (std::size_t i = 0; i < summaries[own].size(); ++i) {
    report::BenchmarkRow row;
    row.task = columns[own]->task.title;
    row.metric = summaries[own][i].name;
    row.headline = i == 0;
    row.problems = static_cast<std::int64_t>(columns[own]->problems.size());
    row.samples = columns[own]->task.samples;
    for (std::size_t m = 0; m < columns.size(); ++m) {
      row.scores.emplace_back();
      row.differences.emplace_back();
      if (i >= summaries[m].size()) continue;
      row.scores.back() = score_of(summaries[m][i].estimate);
      if (m > 0 && i < summaries[0].size())
        row.differences.back() = score_of(
            evaluate::paired_difference(summaries[0][i].problems, summaries[m][i].problems));
    }
    b.rows.push_back(std::move(row));
  }
}

bool is_right(const evaluate::Response& r) {
  return !r.metrics.empty() && r.metrics[0].points.passed == r.metrics[0].points.total;
}

// First samples, first steps. Those that models are judged differently on are the telling ones.
void add_samples(report::Benchmarks& b, const Columns& columns, std::size_t most) {
  std::vector<report::BenchmarkSample> differing, others;
  const evaluate::TaskResults* own = nullptr;
  for (const auto* c : columns)
    if (c != nullptr && own == nullptr) own = c;
  std::vector<std::vector<const evaluate::Response*>> firsts(columns.size());
  for (std::size_t m = 0; m < columns.size(); ++m) {
    firsts[m].resize(own->problems.size());
    if (columns[m] == nullptr) continue;
    for (const evaluate::Response& r : columns[m]->responses)
      if (r.sample == 0 && r.step == 0) firsts[m][static_cast<std::size_t>(r.problem)] = &r;
  }
  for (std::size_t p = 0; p < own->problems.size(); ++p) {
    report::BenchmarkSample sample{own->task.title,
                                   own->problems[p].id,
                                   own->problems[p].prompt,
                                   own->problems[p].reference,
                                   {}};
    std::size_t right = 0, asked = 0;
    for (const auto& of_model : firsts) {
      sample.answers.emplace_back();
      if (of_model[p] == nullptr) continue;
      const evaluate::Response& r = *of_model[p];
      sample.answers.back() = {r.text, r.answer, r.verdict, is_right(r)};
      right += is_right(r);
      ++asked;
    }
    (right > 0 && right < asked ? differing : others).push_back(std::move(sample));
  }
  differing.insert(differing.end(), std::make_move_iterator(others.begin()),
                   std::make_move_iterator(others.end()));
  if (differing.size() > most) {
    b.samples_left_out += static_cast<std::int64_t>(differing.size() - most);
    differing.resize(most);
  }
  b.samples.insert(b.samples.end(), std::make_move_iterator(differing.begin()),
                   std::make_move_iterator(differing.end()));
}

// Texts that ran into max_tokens are scored as they are: many of them make a score low.
void note_cut(report::Benchmarks& b, const std::string& model, const evaluate::TaskResults& task) {
  const auto cut = std::count_if(task.responses.begin(), task.responses.end(),
                                 [](const auto& r) { return r.finish_reason == "length"; });
  if (10 * cut > static_cast<std::int64_t>(task.responses.size()))
    b.notes.push_back(fmt::format("{}, {}: {} of {} responses were cut at {} tokens.", model,
                                  task.task.title, cut, task.responses.size(),
                                  task.task.max_tokens));
}

}  // namespace

report::Benchmarks compare(const std::vector<evaluate::Results>& results,
                           std::size_t most_samples) {
  report::Benchmarks b;
  std::vector<std::string> tasks;  // in the order of their first mention
  for (const evaluate::Results& r : results) {
    b.models.push_back(r.label.empty() ? r.model : r.label);
    for (const evaluate::TaskResults& t : r.tasks)
      if (std::find(tasks.begin(), tasks.end(), t.task.name) == tasks.end())
        tasks.push_back(t.task.name);
  }
  for (const std::string& task : tasks) {
    Columns columns;
    std::size_t first = results.size();
    for (std::size_t m = 0; m < results.size(); ++m) {
      columns.push_back(find(results[m], task));
      if (columns.back() == nullptr) continue;
      if (first == results.size()) first = m;
      const std::string differs = evaluate::difference_of_protocol(results[first], *columns[first],
                                                                   results[m], *columns[m]);
      check(differs.empty(), kOperation, "{}: {} and {} were not asked alike: {}", task,
            b.models[first], b.models[m], differs);
      note_cut(b, b.models[m], *columns[m]);
    }
    add_rows(b, columns);
    add_samples(b, columns, most_samples);
  }
  return b;
}

void score_again(evaluate::Results& results, std::int64_t threads) {
  if (threads <= 0) threads = std::max(1u, std::thread::hardware_concurrency());
  for (evaluate::TaskResults& t : results.tasks) {
    std::vector<evaluate::Problem> problems = evaluate::read_problems(t.task, results.seed);
    bool same = problems.size() == t.problems.size();
    for (std::size_t i = 0; same && i < problems.size(); ++i)
      same = problems[i].id == t.problems[i].id && problems[i].reference == t.problems[i].reference;
    check(same, kOperation, "{}: {}: is not what the results were made from; say which file is",
          t.task.name, t.task.data);
    Progress progress(fmt::format("{:<12} ", t.task.name));
    evaluate::check_can_score(t.task, problems);
    evaluate::score(t.task, problems, t.responses, threads, [&](std::int64_t done) {
      progress.show(fmt::format("{} of {} scored", done, t.responses.size()));
    });
  }
}

}  // namespace qad::recipe
