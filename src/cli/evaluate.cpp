// qad evaluate: cross-entropy, perplexity, and KL and top-1 agreement against a teacher, on
// held-out text; or benchmarks.
#include <algorithm>
#include <sstream>

#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "core/json.h"
#include "data/dataset.h"
#include "evaluate/evaluate.h"
#include "recipe/benchmarks.h"
#include "recipe/paths.h"
#include "recipe/steps.h"

namespace qad::cli {
namespace {

struct Options {
  std::string model, teacher, mask = "all", protocol, label;
  std::optional<std::string> data, tasks, output;
  std::vector<std::string> sets;
  std::int64_t seq_len = 512, documents = 0, batch_size = 0;
  std::uint64_t seed = 0;
  double cache_gb = 1;
  bool json = false, list = false, keys = false;
  ComputeOptions compute;
};

Json as_json(const evaluate::Metrics& m) {
  Json j;
  const auto put = [&](const char* key, const std::optional<evaluate::Value>& v) {
    j[key] = v ? Json(v->mean) : Json();
    j[std::string(key) + "_se"] = v ? Json(v->se) : Json();
  };
  put("ce", m.ce);
  put("ppl", m.ppl);
  put("kl", m.kl);
  put("top1", m.top1);
  j["tokens"] = m.tokens;
  j["documents"] = m.documents;
  return j;
}

int list_tasks() {
  for (const std::string& name : evaluate::task_names(recipe::task_folder())) {
    const evaluate::Task task = evaluate::load_task(name, recipe::task_folder());
    fmt::print("{:<16} {}{}\n", name, task.description,
               task.needs.empty() ? "" : "; needs " + task.needs);
  }
  return 0;
}

int print_task_keys() {
  const evaluate::Task task;
  evaluate::for_each_key(task,
                         [](const char* key, const auto&, const char* words, const char* help) {
                           const std::string_view of = words;
                           fmt::print("{:<16} {}{}\n", key, help,
                                      of.empty() || of == ">0" ? "" : fmt::format(" {{{}}}", of));
                         });
  return 0;
}

std::vector<std::string> words_of(const std::string& list) {
  std::vector<std::string> words;
  std::istringstream in(list);
  for (std::string word; std::getline(in, word, ',');)
    if (!word.empty()) words.push_back(word);
  return words;
}

recipe::BenchmarkJob job_of(const Options& o) {
  recipe::BenchmarkJob job;
  job.tasks = recipe::tasks_of(words_of(*o.tasks), o.protocol, o.sets);
  job.out = *o.output;
  job.seed = o.seed;
  job.threads = o.compute.threads;
  job.engine.most_sequences = o.batch_size;
  job.engine.cache_bytes = o.cache_gb * 1e9;
  return job;
}

int run_tasks(const Options& o) {
  const recipe::BenchmarkJob job = job_of(o);  // a mistake in it is found before a model is read
  const recipe::LoadedModel loaded =
      recipe::load_model(o.model, models::decoding_placement_of(o.compute.device));
  const std::string label = o.label.empty() ? o.model : o.label;
  const auto results =
      recipe::run_benchmarks({loaded.model, loaded.tokenizer, o.model, label}, job);
  if (!results) {
    note("interrupted; the same command goes on from there");
    return 130;
  }
  const report::Benchmarks benchmarks = recipe::compare({*results}, 0);
  fmt::print("{}", report::benchmark_table(benchmarks));
  for (const std::string& said : benchmarks.notes) note("{}", said);
  note("{}: every response; qad compare puts it beside others", *o.output);
  return 0;
}

int run_metrics(const Options& o) {
  const recipe::LoadedModel loaded =
      recipe::load_model(o.model, models::placement_of(o.compute.device));
  std::optional<recipe::LoadedModel> teacher;
  if (!o.teacher.empty()) {
    teacher = recipe::load_model(o.teacher, loaded.model.placement);
    recipe::check_same_vocabulary("evaluate", *teacher, loaded);
  }
  data::RenderOptions options;
  if (o.mask == "assistant") options.mask = data::Mask::assistant;
  options.max_documents = o.documents;
  const auto documents = data::read_documents(*o.data, loaded.tokenizer, options);
  const auto batches = evaluate::evaluation_batches(documents, o.seq_len);
  evaluate::Metrics m;
  {
    Progress progress("evaluate ");
    m = evaluate::evaluate(loaded.model, teacher ? &teacher->model : nullptr, batches,
                           [&](std::size_t done) {
                             progress.show(fmt::format("{}/{} batches", done, batches.size()));
                           });
  }
  if (o.json) {
    fmt::print("{}\n", as_json(m).dump(2));
    return 0;
  }
  const auto line = [](const char* name, const std::optional<evaluate::Value>& v) {
    if (v) fmt::print("{:<5} {:.4f} +- {:.4f}\n", name, v->mean, v->se);
  };
  line("ce", m.ce);
  line("ppl", m.ppl);
  line("kl", m.kl);
  line("top1", m.top1);
  fmt::print("{} tokens of {} documents\n", m.tokens, m.documents);
  return 0;
}

}  // namespace

void add_evaluate(CLI::App& app) {
  Command command(app, "evaluate",
                  "cross-entropy, perplexity, KL and top-1 agreement on held-out text; benchmarks");
  auto o = std::make_shared<Options>();
  command.text("model", o->model, "checkpoint, BF16 or NVFP4");
  command.group("Held-out text");
  command.optional("--data", o->data, ".txt or .jsonl");
  command.text("--teacher", o->teacher, "checkpoint to compare with (same vocabulary)");
  command.number("--seq-len", o->seq_len, "documents are scored in pieces of this many tokens",
                 std::int64_t{2}, std::int64_t{1} << 20);
  command.number("--documents", o->documents, "first documents only; 0: all");
  command.choice("--mask", o->mask, {"all", "assistant"}, "tokens that are scored");
  command.flag("--json", o->json,
               "one JSON object on stdout: ce, ppl, kl, top1 with standard errors (*_se)");
  command.group("Benchmarks");
  command.optional("--tasks", o->tasks, "names, or .yaml files, with commas between them");
  command.flag("--list-tasks", o->list, "names of the built-in tasks, and stop");
  command.flag("--task-keys", o->keys, "what a task's file may say, and stop");
  command.optional("-o,--output", o->output,
                   "results with every response (.json); a run that was ended goes on from there");
  command.repeated("--set", o->sets,
                   "TASK.KEY=VALUE: changes a key of a task, *.KEY=VALUE of all (docs/tasks.md)");
  command.text("--protocol", o->protocol,
               "sampling of a model family: a name or .yaml of {TASK: {KEY: VALUE}}");
  command.text("--label", o->label, "the model's name in tables");
  command.number("--seed", o->seed, "of samples and of the order of choices", std::uint64_t{0});
  command.number("--batch-size", o->batch_size,
                 "responses that are written at once; 0: 64 on a CPU, 256 on a GPU",
                 std::int64_t{0});
  command.number("--cache-gb", o->cache_gb, "memory for keys and values");
  command.exclude("--data", "--tasks");
  add_compute_options(command, o->compute);
  command.run([o] {
    if (o->list) return list_tasks();
    if (o->keys) return print_task_keys();
    check(!o->model.empty(), "evaluate", "name a model");
    check(o->data || o->tasks, "evaluate", "say --data FILE or --tasks NAME,...");
    check(o->tasks.has_value() == o->output.has_value(), "evaluate",
          "--tasks and -o belong together; found only {}", o->tasks ? "--tasks" : "-o");
    check(o->tasks || (o->sets.empty() && o->protocol.empty()), "evaluate",
          "--set and --protocol are for --tasks");
    check(o->data || (o->teacher.empty() && !o->json), "evaluate",
          "--teacher and --json are for --data");
    apply(o->compute);
    return o->tasks ? run_tasks(*o) : run_metrics(*o);
  });
}

}  // namespace qad::cli
