// Task by task: what is missing is asked of the model, then all is scored and written.
#include "recipe/benchmarks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <thread>
#include <tuple>

#include "core/console.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/nearest.h"
#include "core/random.h"
#include "distill/resume.h"
#include "evaluate/score.h"
#include "generate/write_texts.h"
#include "recipe/paths.h"
#include "recipe/prompts.h"
#include "recipe/writing_progress.h"
#include "report/events.h"

namespace qad::recipe {
namespace {

constexpr std::string_view kOperation = "evaluate";

using evaluate::Problem;
using evaluate::Response;
using evaluate::Task;

// What a partial file and finished results must agree with.
Json identity_of(const BenchmarkModel& model, const BenchmarkJob& job) {
  Json tasks = Json::array();
  for (const Task& task : job.tasks) {
    Json json = evaluate::to_json(task);
    json["name"] = task.name;
    tasks.push_back(std::move(json));
  }
  return {{"fingerprint", fmt::format("{:016x}", distill::fingerprint(model.model))},
          {"seed", job.seed},
          {"tasks", std::move(tasks)}};
}

Json identity_of(const Json& results) {
  Json tasks = Json::array();
  for (const Json& t : results.at("tasks")) tasks.push_back(t.at("task"));
  return {{"fingerprint", results.at("fingerprint")},
          {"seed", results.at("seed")},
          {"tasks", std::move(tasks)}};
}

// The responses that a killed run left, by task. Its first line is the identity.
class Partial {
 public:
  Partial(const fs::path& path, const Json& identity) {
    if (!fs::exists(path)) {
      report::MetricsLog(path).write(identity);
    } else {
      bool same = false;  // a file without a whole first line is nobody's
      report::read_log(path, [&](const Json& json, std::int64_t number) {
        if (number > 1) return note(json);
        same = json == identity;
        check(same, kOperation, kOfAnother, path.string());
      });
      check(same, kOperation, kOfAnother, path.string());
    }
    log_.emplace(path, /*append=*/true);
  }

  std::vector<Response> of(const std::string& task) { return responses_[task]; }
  void add(const std::string& task, const Response& r) {
    log_->write({{"task", task},
                 {"problem", r.problem},
                 {"sample", r.sample},
                 {"step", r.step},
                 {"response", r.text},
                 {"finish_reason", r.finish_reason},
                 {"tokens", r.tokens}});
  }

 private:
  static constexpr const char* kOfAnother =
      "{}: is of another model, seed or task; remove it or write elsewhere";

  void note(const Json& json) {
    Response r;
    r.problem = json.at("problem").get<std::int64_t>();
    r.sample = json.at("sample").get<std::int64_t>();
    r.step = json.at("step").get<std::int64_t>();
    r.text = json.at("response").get<std::string>();
    r.finish_reason = json.at("finish_reason").get<std::string>();
    r.tokens = json.at("tokens").get<std::int64_t>();
    responses_[json.at("task").get<std::string>()].push_back(std::move(r));
  }

  std::map<std::string, std::vector<Response>> responses_;
  std::optional<report::MetricsLog> log_;
};

// A problem's sample on its way through the steps.
struct Way {
  std::int64_t problem = 0, sample = 0;
  std::vector<std::string> earlier;  // answers of the steps that are done
};

class Asker {
 public:
  Asker(const BenchmarkModel& model, const BenchmarkJob& job, generate::Engine& engine,
        const Task& task, const std::vector<Problem>& problems, Partial& partial)
      : model_(model),
        job_(job),
        engine_(engine),
        task_(task),
        problems_(problems),
        partial_(partial),
        responses_(partial.of(task.name)) {
    if (task.chat != "no") chat_ = chat_template_of(model.tokenizer);
    check(chat_ || task.chat != "yes", kOperation,
          "{}: chat: yes needs a chat template, and the model has none", task.name);
    for (std::int64_t p = 0; p < static_cast<std::int64_t>(problems.size()); ++p)
      for (std::int64_t s = 0; s < task.samples; ++s) waiting_.push_back({p, s, {}});
    take_earlier();
  }

  // Whether all were answered; false for an interrupt.
  bool run() {
    const Interrupt interrupt;
    WritingProgress progress(fmt::format("{:<12} ", task_.name), engine_,
                             static_cast<double>(done_));
    const auto show = [&](bool last) {
      progress.show(fmt::format("{} of {} responses", done_, all()), static_cast<double>(done_),
                    static_cast<double>(all()), last);
    };
    generate::TextWriter writer;
    writer.next = [&] { return next(); };
    writer.done = [&](std::int64_t number, generate::WrittenText text) {
      note_response(writing_[static_cast<std::size_t>(number)], std::move(text));
    };
    bool stopped = false;
    writer.go_on = [&] {
      show(false);
      stopped = interrupt.asked();
      return !stopped;
    };
    generate::write_texts(engine_, model_.tokenizer, writer);
    show(true);
    return !stopped;
  }

  std::vector<Response> responses() && {
    std::sort(responses_.begin(), responses_.end(), [](const Response& a, const Response& b) {
      return std::tie(a.problem, a.sample, a.step) < std::tie(b.problem, b.sample, b.step);
    });
    return std::move(responses_);
  }

 private:
  std::int64_t all() const {
    std::int64_t steps = 0;
    for (const Problem& p : problems_) steps += static_cast<std::int64_t>(p.steps.size());
    return steps * task_.samples;
  }

  // Ways go on behind what the partial file has of them.
  void take_earlier() {
    std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, const Response*> found;
    for (const Response& r : responses_) found[{r.problem, r.sample, r.step}] = &r;
    done_ = static_cast<std::int64_t>(found.size());
    std::deque<Way> left;
    for (Way& way : waiting_) {
      const std::size_t steps = problems_[static_cast<std::size_t>(way.problem)].steps.size();
      for (std::size_t step = 0; step < steps; ++step) {
        const auto r = found.find({way.problem, way.sample, static_cast<std::int64_t>(step)});
        if (r == found.end()) break;
        way.earlier.push_back(evaluate::step_answer(task_, r->second->text));
      }
      if (way.earlier.size() < steps) left.push_back(std::move(way));
    }
    waiting_ = std::move(left);
  }

  std::optional<generate::TextJob> next() {
    if (waiting_.empty()) return std::nullopt;
    Way way = std::move(waiting_.front());
    waiting_.pop_front();
    const Problem& problem = problems_[static_cast<std::size_t>(way.problem)];
    const Json messages = evaluate::messages_of(task_, problem, way.earlier.size(), way.earlier);
    generate::TextJob text;
    const std::string where = fmt::format("{}: problem {}", task_.name, problem.id);
    text.prompt = prompt_tokens(kOperation, where, as_prompt(messages, chat_.has_value()),
                                model_.tokenizer, chat_);
    auto& o = text.sampling;
    o.max_tokens = task_.max_tokens;
    o.temperature = task_.temperature;
    o.top_p = task_.top_p;
    o.top_k = task_.top_k;
    o.min_p = task_.min_p;
    o.stop = task_.stop;
    o.seed =
        random_bits(generate::sample_seed(job_.seed, way.problem, way.sample), way.earlier.size());
    try {
      generate::SamplingOptions of_ids = o;
      of_ids.stop.clear();
      engine_.check_request(text.prompt, of_ids);
    } catch (const Error& e) {
      fail(kOperation, "{}: {}; --cache-gb gives it more", where, e.what());
    }
    writing_.push_back(std::move(way));
    return text;
  }

  void note_response(Way& way, generate::WrittenText text) {
    Response r;
    r.problem = way.problem;
    r.sample = way.sample;
    r.step = static_cast<std::int64_t>(way.earlier.size());
    r.finish_reason = generate::finish_reason(text.finish);
    r.tokens = static_cast<std::int64_t>(text.ids.size());
    r.text = std::move(text.text);
    partial_.add(task_.name, r);
    way.earlier.push_back(evaluate::step_answer(task_, r.text));
    if (way.earlier.size() < problems_[static_cast<std::size_t>(way.problem)].steps.size())
      waiting_.push_front(std::move(way));
    responses_.push_back(std::move(r));
    ++done_;
  }

  const BenchmarkModel& model_;
  const BenchmarkJob& job_;
  generate::Engine& engine_;
  const Task& task_;
  const std::vector<Problem>& problems_;
  Partial& partial_;
  std::optional<text::ChatTemplate> chat_;
  std::deque<Way> waiting_;
  std::vector<Way> writing_;  // by the number of the text
  std::vector<Response> responses_;
  std::int64_t done_ = 0;
};

std::string now() {
  const std::time_t t = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&t, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

evaluate::TaskResults scored(const Task& task, const std::vector<Problem>& problems,
                             std::vector<Response> responses, std::int64_t threads) {
  evaluate::TaskResults results{task, {}, std::move(responses)};
  for (const Problem& p : problems) {
    const Json messages = evaluate::messages_of(task, p, 0, {});
    results.problems.push_back({p.id, messages.back()["content"], p.reference});
  }
  Progress progress(fmt::format("{:<12} ", task.name));
  evaluate::score(task, problems, results.responses, threads, [&](std::int64_t done) {
    progress.show(fmt::format("{} of {} scored", done, results.responses.size()));
  });
  return results;
}

// Of each task, which can be asked and judged.
std::vector<std::vector<Problem>> checked_problems(const BenchmarkJob& job) {
  check(!job.tasks.empty(), kOperation, "no tasks");
  std::vector<std::vector<Problem>> problems;
  for (const Task& task : job.tasks) {
    evaluate::validate(task);
    problems.push_back(evaluate::read_problems(task, job.seed));
    evaluate::check_can_score(task, problems.back());
  }
  return problems;
}

}  // namespace

Task find_task(const std::string& name) {
  const bool file = fs::path(name).extension() == ".yaml";
  return evaluate::load_task(name, file ? fs::path() : task_folder());
}

std::vector<Task> tasks_of(const std::vector<std::string>& names, const std::string& protocol,
                           const std::vector<std::string>& sets) {
  std::vector<Task> tasks;
  for (const std::string& name : names) {
    tasks.push_back(find_task(name));
    for (std::size_t i = 0; i + 1 < tasks.size(); ++i)
      check(tasks[i].name != tasks.back().name, kOperation, "the task {} is named twice",
            tasks.back().name);
  }
  if (!protocol.empty()) {
    fs::path file = protocol;
    if (file.extension() != ".yaml") {
      const fs::path folder = task_folder() / "protocols";
      const auto known = evaluate::task_names(folder);
      check(std::find(known.begin(), known.end(), protocol) != known.end(), kOperation,
            "no protocol \"{}\"{}; there are {}, or give the path of a .yaml", protocol,
            did_you_mean(protocol, known), fmt::join(known, ", "));
      file = folder / (protocol + ".yaml");
    }
    evaluate::apply_protocol(tasks, file);
  }
  for (const std::string& set : sets) evaluate::set_task_key(tasks, set);
  for (const Task& task : tasks) evaluate::validate(task);
  return tasks;
}

void check_benchmarks(const BenchmarkJob& job) {
  checked_problems(job);
}

std::optional<evaluate::Results> run_benchmarks(const BenchmarkModel& model,
                                                const BenchmarkJob& job) {
  const Json identity = identity_of(model, job);
  if (fs::exists(job.out)) {
    const Json earlier = read_json(job.out);
    evaluate::Results results = evaluate::results_of(earlier, job.out.string());
    check(identity_of(earlier) == identity, kOperation,
          "{}: has the results of another model, seed or task; remove it or write elsewhere",
          job.out.string());
    note("{}: has these results already", job.out.string());
    return results;
  }
  const std::vector<std::vector<Problem>> of_tasks = checked_problems(job);
  const fs::path partial_path = job.out.string() + ".partial";
  Partial partial(partial_path, identity);
  generate::Engine engine(model.model, job.engine);
  evaluate::Results results{model.path, identity["fingerprint"], model.label, now(), job.seed, {}};
  const std::int64_t threads =
      job.threads > 0 ? job.threads : std::max(1u, std::thread::hardware_concurrency());
  for (std::size_t i = 0; i < job.tasks.size(); ++i) {
    const Task& task = job.tasks[i];
    const std::vector<Problem>& problems = of_tasks[i];
    Asker asker(model, job, engine, task, problems, partial);
    if (!asker.run()) return std::nullopt;
    results.tasks.push_back(scored(task, problems, std::move(asker).responses(), threads));
  }
  evaluate::write_results(job.out, results);
  fs::remove(partial_path);
  return results;
}

}  // namespace qad::recipe
