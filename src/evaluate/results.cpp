// Results to JSON and back, and their figures.
#include "evaluate/results.h"

#include <algorithm>

#include "core/error.h"

namespace qad::evaluate {
namespace {

constexpr std::string_view kOperation = "results";
constexpr const char* kFormat = "qad-results-1";

Json task_json(const Task& task) {
  Json json = to_json(task);
  json["name"] = task.name;
  return json;
}

Json metrics_json(const std::vector<Metric>& metrics) {
  Json json = Json::object();
  for (const Metric& m : metrics) json[m.name] = {m.points.passed, m.points.total};
  return json;
}

Json response_json(const Response& r) {
  Json json = {{"problem", r.problem}, {"sample", r.sample}};
  if (r.step > 0) json["step"] = r.step;
  json["response"] = r.text;
  json["finish_reason"] = r.finish_reason;
  json["tokens"] = r.tokens;
  json["answer"] = r.answer;
  json["verdict"] = r.verdict;
  json["metrics"] = metrics_json(r.metrics);
  return json;
}

Json scores_json(const TaskResults& task) {
  Json scores = Json::object();
  for (const MetricSummary& m : summarize(task)) {
    const Estimate& e = m.estimate;
    scores[m.name] = {{"mean", e.mean}, {"se", e.se}, {"interval", Json::array({e.low, e.high})}};
  }
  return scores;
}

Response response_of(const Json& json) {
  Response r;
  r.problem = json.at("problem").get<std::int64_t>();
  r.sample = json.at("sample").get<std::int64_t>();
  r.step = json.value("step", std::int64_t{0});
  r.text = json.at("response").get<std::string>();
  r.finish_reason = json.at("finish_reason").get<std::string>();
  r.tokens = json.at("tokens").get<std::int64_t>();
  r.answer = json.at("answer").get<std::string>();
  r.verdict = json.at("verdict").get<std::string>();
  for (const auto& [name, points] : json.at("metrics").items())
    r.metrics.push_back({name, {points.at(0).get<double>(), points.at(1).get<double>()}});
  return r;
}

}  // namespace

std::vector<MetricSummary> summarize(const TaskResults& task) {
  std::vector<MetricSummary> all;
  for (const Response& r : task.responses) {
    for (std::size_t i = 0; i < r.metrics.size(); ++i) {
      if (i == all.size())
        all.push_back({r.metrics[i].name, std::vector<Points>(task.problems.size()), {}});
      Points& sum = all[i].problems[static_cast<std::size_t>(r.problem)];
      sum.passed += r.metrics[i].points.passed;
      sum.total += r.metrics[i].points.total;
    }
  }
  for (MetricSummary& m : all) m.estimate = estimate(m.problems);
  return all;
}

Json to_json(const Results& results) {
  Json tasks = Json::array();
  for (const TaskResults& task : results.tasks) {
    Json problems = Json::array(), responses = Json::array();
    for (const TaskResults::Asked& p : task.problems)
      problems.push_back({{"id", p.id}, {"prompt", p.prompt}, {"reference", p.reference}});
    for (const Response& r : task.responses) responses.push_back(response_json(r));
    tasks.push_back({{"task", task_json(task.task)},
                     {"scores", scores_json(task)},
                     {"problems", std::move(problems)},
                     {"responses", std::move(responses)}});
  }
  return {
      {"format", kFormat},        {"model", results.model}, {"fingerprint", results.fingerprint},
      {"label", results.label},   {"date", results.date},   {"seed", results.seed},
      {"tasks", std::move(tasks)}};
}

Results results_of(const Json& json, const std::string& where) {
  check(json.is_object() && json.value("format", "") == kFormat, kOperation,
        "{}: expected a file of qad evaluate --tasks (format \"{}\")", where, kFormat);
  Results results;
  try {
    results.model = json.at("model").get<std::string>();
    results.fingerprint = json.at("fingerprint").get<std::string>();
    results.label = json.at("label").get<std::string>();
    results.date = json.at("date").get<std::string>();
    results.seed = json.at("seed").get<std::uint64_t>();
    for (const Json& t : json.at("tasks")) {
      TaskResults task;
      task.task = task_of(t.at("task"), where);
      for (const Json& p : t.at("problems"))
        task.problems.push_back({p.at("id").get<std::string>(), p.at("prompt").get<std::string>(),
                                 p.at("reference").get<std::string>()});
      for (const Json& r : t.at("responses")) task.responses.push_back(response_of(r));
      for (const Response& r : task.responses)
        check(r.problem >= 0 && r.problem < static_cast<std::int64_t>(task.problems.size()) &&
                  r.metrics.size() == task.responses[0].metrics.size(),
              kOperation, "{}: {}: a response to problem {} of {}", where, task.task.name,
              r.problem, task.problems.size());
      results.tasks.push_back(std::move(task));
    }
  } catch (const Json::exception& e) {
    fail(kOperation, "{}: {}", where, e.what());
  }
  return results;
}

void write_results(const fs::path& file, const Results& results) {
  write_file(file, to_json(results).dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

Results read_results(const fs::path& file) {
  return results_of(read_json(file), file.string());
}

std::string difference_of_protocol(const Results& a, const TaskResults& in_a, const Results& b,
                                   const TaskResults& in_b) {
  if (a.seed != b.seed) return fmt::format("seeds {} and {}", a.seed, b.seed);
  const Json one = to_json(in_a.task), other = to_json(in_b.task);
  for (const auto& [key, value] : one.items()) {
    static const std::vector<std::string> elsewhere = {"data", "documents", "tests", "python",
                                                       "judge_url"};  // places, not protocol
    if (std::find(elsewhere.begin(), elsewhere.end(), key) == elsewhere.end() &&
        other.value(key, Json()) != value)
      return fmt::format("{}: {} and {}", key, value.dump(), other.value(key, Json()).dump());
  }
  if (in_a.problems.size() != in_b.problems.size())
    return fmt::format("{} and {} problems", in_a.problems.size(), in_b.problems.size());
  for (std::size_t i = 0; i < in_a.problems.size(); ++i)
    if (in_a.problems[i].prompt != in_b.problems[i].prompt ||
        in_a.problems[i].reference != in_b.problems[i].reference)
      return fmt::format("problem {}", in_a.problems[i].id);
  return {};
}

}  // namespace qad::evaluate
