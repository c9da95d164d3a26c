// Renames and regroups only: what is shown is decided in the report room, what is true in run.cpp.
#include "recipe/report.h"

#include <algorithm>
#include <cctype>
#include <ctime>
#include <set>

#include "checkpoint/out_model.h"
#include "core/console.h"
#include "recipe/benchmarks.h"
#include "recipe/steps.h"

namespace qad::recipe {
namespace {

report::Value value(const evaluate::Value& v) {
  return {v.mean, v.se};
}

report::Metrics metrics(const evaluate::Metrics& m) {
  report::Metrics out{value(m.ce), value(m.ppl), {}, {}};
  if (m.kl) out.kl = value(*m.kl);
  if (m.top1) out.top1 = value(*m.top1);
  return out;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", std::localtime(&now));
  return text;
}

std::vector<report::Chart> charts(const Outcome& o) {
  if (o.steps.empty()) return {};
  report::Curve kl{"training", {}, true, false}, ce{"training", {}, true, false},
      rate{"learning rate", {}, false, false};
  for (const distill::StepInfo& s : o.steps) {
    const auto x = static_cast<double>(s.step);
    kl.points.push_back({x, s.kl});
    ce.points.push_back({x, s.ce});
    rate.points.push_back({x, s.learning_rate});
  }
  report::Curve held_out{"validation", {}, false, true}, held_out_ce{"validation", {}, false, true};
  for (const distill::Validation& v : o.training.validations) {
    held_out.points.push_back({static_cast<double>(v.step), v.kl});
    held_out_ce.points.push_back({static_cast<double>(v.step), v.ce});
  }
  std::vector<report::Chart> all;
  if (o.recipe.method != "qat") {
    report::Chart chart{"KL to the teacher", "nats a token", {kl, held_out}, {}, true};
    if (o.ptq.kl) chart.references.emplace_back("PTQ", o.ptq.kl->mean);
    all.push_back(std::move(chart));
  }
  all.push_back({"Cross-entropy on the text",
                 "nats a token",
                 {ce, held_out_ce},
                 {{"BF16", o.teacher.ce.mean}, {"PTQ", o.ptq.ce.mean}},
                 false});
  all.push_back({"Learning rate", "", {rate}, {}, false});
  return all;
}

// How much the teacher wrote, and what it looked like.
void add_teacher_data(report::Run& run, const SynthesisSummary& s) {
  for (const auto& source : s.sources)
    run.notes.push_back(fmt::format(
        "Learned from what the teacher wrote {}: {} texts of {} tokens, {} of which ended "
        "themselves.",
        source.kind == "self" ? "as user and assistant in turn" : "from BOS on", source.records,
        source.tokens, source.ended));
  for (const auto& [prompt, completion] : s.examples)
    run.samples.push_back({"Training data, written by the teacher",
                           prompt.empty() ? completion : prompt + "\n\n" + completion});
}

}  // namespace

report::Run report_of(const Outcome& o) {
  report::Run run;
  const std::string model = fs::path(o.recipe.model).stem().string();
  std::string method = o.recipe.method;
  std::transform(method.begin(), method.end(), method.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  run.title = method + " of " + model;
  run.model = fmt::format("{} ({}, {} parameters)", o.recipe.model, o.architecture,
                          human_count(static_cast<double>(o.parameters)));
  run.date = today();
  run.command = o.command_line;
  if (o.recipe.method == "qat") run.student_label = "QAT";
  run.teacher = metrics(o.teacher);
  run.ptq = metrics(o.ptq);
  if (o.student) run.student = metrics(*o.student);
  run.evaluated_tokens = o.teacher.tokens;
  run.evaluated_documents = o.teacher.documents;
  if (o.teacher_data) add_teacher_data(run, *o.teacher_data);
  run.charts = charts(o);
  if (!o.benchmarks.empty()) run.benchmarks = compare(o.benchmarks);
  for (const auto& e : o.layer_errors) run.layer_errors.push_back({e.name, e.sqnr_db});
  for (const auto& s : o.sensitivities)
    run.sensitivities.push_back({s.kind, s.layer, s.patterns, s.weights, s.kl, s.kl_fp8,
                                 std::string(quantize::name_of(s.format)), s.format != s.least});
  run.bits = o.bits;
  for (const auto& row : o.coverage)
    run.coverage.push_back({row.kind, row.tensors, row.parameters, row.bytes_before,
                            row.bytes_after, std::string(quantize::format_of(row)), row.why});
  for (const Candidate& c : o.candidates)
    run.candidates.push_back({c.step, c.validation_loss, c.kl, c.chosen});
  const Json recipe = to_json(o.recipe);
  for (const auto& [key, v] : recipe.items())
    run.recipe.emplace_back(key, v.is_string() ? v.get<std::string>() : v.dump());
  for (const Sample& s : o.samples) run.samples.push_back({s.label, s.text});
  for (const std::string& done : o.transforms)
    run.notes.push_back("Before quantising: " + done + ".");
  run.notes.push_back(
      fmt::format("{:.2g} % of the quantised activations were clipped.", 100 * o.clipped_share));
  if (policy_of(o.recipe).fp8_cache)
    run.notes.push_back(
        "Keys and values are rounded to FP8 (E4M3) by scales of each layer, as a cache holds "
        "them.");
  if (!o.unreached.empty())
    run.notes.push_back(
        fmt::format("Calibration did not reach {}; they have the largest input scale of their "
                    "layer.",
                    quantize::to_text(o.unreached)));
  run.tokens = o.training.tokens;
  run.seconds = o.training.seconds;
  run.tokens_per_second =
      o.training.seconds > 0 ? static_cast<double>(o.training.tokens) / o.training.seconds : 0;
  run.bytes_before = o.bytes_before;
  run.bytes_after = o.bytes_after;
  return run;
}

void write_report(const Outcome& outcome) {
  const fs::path output = outcome.recipe.output;
  const report::Run run = report_of(outcome);
  write_file(output / "result.json", to_text(report::result_json(run)));
  write_file(output / "report.html", report::html(run));
  write_file(output / "recipe.yaml", to_yaml(outcome.recipe));
}

std::string about(const Outcome& o) {
  const Recipe& r = o.recipe;
  const std::string model = checkpoint::model_name(r.model);
  std::string text;
  if (r.method == "qad")
    text = fmt::format(
        "Quantization-aware distillation (arXiv 2601.20088) of {} by {}: {} steps, {} tokens.\n",
        model, r.teacher.empty() ? "itself in BF16" : checkpoint::model_name(r.teacher),
        o.training.steps_done, o.training.tokens);
  else if (r.method == "qat")
    text = fmt::format("Quantization-aware training of {} on its labels: {} steps, {} tokens.\n",
                       model, o.training.steps_done, o.training.tokens);
  else
    text = fmt::format("Post-training quantisation of {}.\n", model);
  std::string files;
  for (const DataFile& file : r.data.train)
    files += (files.empty() ? "" : ", ") + fs::path(file.file).filename().string();
  if (r.method != "ptq")
    text += fmt::format("Training data: {}.\n",
                        files.empty() ? "texts that the teacher wrote itself" : files);
  const report::Run run = report_of(o);
  for (const std::string& done : o.transforms) text += "Before quantising: " + done + ".\n";
  text += fmt::format("\nOn {} held-out documents, {} tokens:\n\n```\n{}```\n", o.teacher.documents,
                      o.teacher.tokens, report::metrics_table(run));
  if (!run.benchmarks.rows.empty())
    text += fmt::format("\n```\n{}```\n", report::benchmark_table(run.benchmarks));
  text += fmt::format("\nLearning rate {}, policy {}, seed {}.\n", r.train.learning_rate,
                      r.quantize.policy, r.seed);
  return text;
}

std::string summary(const Outcome& o) {
  const report::Run run = report_of(o);
  std::string text = fmt::format("\n{}", report::metrics_table(run));
  if (!run.benchmarks.rows.empty()) text += "\n" + report::benchmark_table(run.benchmarks);
  for (const Sample& s : o.samples) text += fmt::format("\n{}: {}\n", s.label, s.text);
  std::set<std::string_view> formats;
  for (const auto& row : o.coverage)
    if (row.quantized) formats.insert(quantize::format_of(row));
  text += fmt::format("\n{} parameters: {} in BF16, {} in {}",
                      human_count(static_cast<double>(o.parameters)),
                      human_bytes(static_cast<double>(o.bytes_before)),
                      human_bytes(static_cast<double>(o.bytes_after)),
                      formats.empty()       ? "BF16"
                      : formats.size() == 1 ? *formats.begin()
                                            : "NVFP4 and FP8");
  if (o.training.seconds > 0)
    text += fmt::format("; {} tokens in {} ({} tokens/s)",
                        human_count(static_cast<double>(o.training.tokens)),
                        human_time(o.training.seconds), human_count(run.tokens_per_second));
  text +=
      fmt::format("\ncheckpoint {0}/checkpoint, report {0}/report.html, numbers {0}/result.json\n",
                  o.recipe.output);
  return text;
}

}  // namespace qad::recipe
