// What a run leaves for people and programs: report.html (one self-contained page), result.json and
// the table at the end of the terminal output. Plain values in, text out; nothing here measures or
// reads a model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "report/benchmarks.h"

namespace qad::report {

struct Value {
  double mean = 0, se = 0;  // standard error over documents
};
struct Metrics {
  Value ce, ppl;                  // nats a token; exp(ce)
  std::optional<Value> kl, top1;  // against the teacher: nats a token; share of tokens, 0..1
};

struct Point {
  double step = 0, value = 0;
};
struct Curve {
  std::string name;  // in the legend; empty: the chart's title says it
  std::vector<Point> points;
  bool smooth = false;   // noisy: drawn faint, with a moving average over it
  bool markers = false;  // few points that matter: dots on the line
};
struct Chart {
  std::string title, unit;
  std::vector<Curve> curves;
  std::vector<std::pair<std::string, double>> references;  // dashed lines: what PTQ has
  bool log = false;  // of the vertical axis; values must be positive
};

struct LayerError {
  std::string name;
  double sqnr_db = 0;  // 10 log10(|W|^2 / |W - Q(W)|^2)
};
// What one group of linears costs when it alone is quantised, and what was made of it.
struct Sensitivity {
  std::string kind;
  int layer = -1;
  std::vector<std::string> patterns;  // of their names
  std::int64_t weights = 0;
  double kl = 0;  // nats a token, as the policy quantises
  std::optional<double> kl_fp8 = {};
  std::string format = "NVFP4";  // or FP8, BF16: what was chosen
  bool raised = false;           // above the policy's
};
struct CoverageRow {
  std::string kind;
  std::int64_t tensors = 0, parameters = 0, bytes_before = 0, bytes_after = 0;
  std::string format;  // "NVFP4", "BF16"
  std::string why;     // of what was left
};
struct Candidate {  // a checkpoint that was considered at the end
  std::int64_t step = 0;
  double validation_loss = 0;
  std::optional<double> kl;
  bool chosen = false;
};
struct Sample {
  std::string label, text;
};

struct Run {
  std::string title, model, date, command;
  std::string student_label = "QAD";  // head of the third column; "QAT" when labels taught it
  std::optional<Metrics> teacher, ptq, student;
  std::int64_t evaluated_tokens = 0, evaluated_documents = 0;
  std::vector<Chart> charts;
  std::vector<LayerError> layer_errors;    // in the order of the model
  std::vector<Sensitivity> sensitivities;  // empty: not measured
  double bits = 0;                         // a weight of those groups
  std::vector<CoverageRow> coverage;
  std::vector<Candidate> candidates;
  std::vector<std::pair<std::string, std::string>> recipe;
  std::vector<Sample> samples;
  Benchmarks benchmarks;
  std::vector<std::string> notes;  // said as they are: "0.02 % of activations were clipped"
  std::int64_t tokens = 0;         // trained on
  double seconds = 0;              // of training
  double tokens_per_second = 0;
  std::int64_t bytes_before = 0, bytes_after = 0;
};

// The share of what PTQ lost that QAD brought back, 1 = all, negative = it got worse; none where
// PTQ lost nothing or a model is missing. Losses: teacher to PTQ for ce and ppl, 0 to PTQ for kl,
// PTQ to 1 for top1.
struct Recovery {
  std::optional<double> ce, ppl, kl, top1;
};
Recovery recovery(const Run& run);

// One sentence with the numbers, plain text.
std::string verdict(const Run& run);

// Columns BF16 | PTQ | QAD and the recovered share, rows ce, perplexity, KL, top-1; as many columns
// as there are models.
std::string metrics_table(const Run& run);

// {teacher, ptq, student: {ce, ce_se, ppl, ppl_se, kl, kl_se, top1, top1_se}, tokens, seconds,
// tokens_per_second, bytes: {before, after}}; null where there is nothing. Non-finite numbers are
// null too. Where sensitivities were measured also mixed_precision: {bits, groups: [{kind, layer,
// weights, kl, kl_fp8 (or null), format}], rules: [{pattern, quantize, format: fp8}]}.
Json result_json(const Run& run);

// A page without scripts or outside resources: light and dark, phone and paper.
std::string html(const Run& run);
// The part of it that shows layer_errors alone, as a page: of a model that was quantised elsewhere.
std::string error_page(const Run& run);

}  // namespace qad::report
