// One run of `qad distill`, from checkpoint to checkpoint, table and report.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "distill/trainer.h"
#include "evaluate/evaluate.h"
#include "evaluate/results.h"
#include "quantize/quantize.h"
#include "quantize/sensitivity.h"
#include "recipe/recipe.h"
#include "recipe/synthesis.h"

namespace qad::recipe {

struct Sample {
  std::string label, prompt, text;  // label: "BF16", "PTQ", "QAD"
};

// A checkpoint kept during training and considered at its end.
struct Candidate {
  std::int64_t step = 0;
  double validation_loss = 0;
  std::optional<double> kl;  // absent when nothing was distilled (QAT)
  bool chosen = false;
};

// Everything a run found out; the report and result.json are views of it.
struct Outcome {
  Recipe recipe;
  std::string command_line, architecture;
  std::int64_t parameters = 0;
  evaluate::Metrics teacher, ptq;
  std::optional<evaluate::Metrics> student;  // absent with method: ptq
  std::vector<quantize::CoverageRow> coverage;
  std::vector<quantize::LayerError> layer_errors;
  std::vector<std::string> transforms;               // what quantize.transform did, a sentence each
  std::vector<quantize::Sensitivity> sensitivities;  // with quantize.bits
  double bits = 0;                                   // a weight that it chose
  std::vector<quantize::UnreachedExperts> unreached;  // by calibration
  std::vector<distill::StepInfo> steps;
  distill::TrainResult training;
  bool interrupted = false;  // in training or a benchmark: the same command goes on from there
  std::vector<Candidate> candidates;
  std::vector<Sample> samples;
  std::optional<SynthesisSummary> teacher_data;  // of a run without data
  std::vector<evaluate::Results> benchmarks;     // of BF16, PTQ and QAD, with evaluate.tasks
  double clipped_share = 0;                      // of activations, over the PTQ evaluation
  std::int64_t bytes_before = 0, bytes_after = 0;
};

struct RunOptions {
  std::string command_line;
};

// Leaves checkpoint/, result.json, report.html, recipe.yaml, metrics.jsonl and events/ in the
// output folder. Ctrl-C during training or a benchmark saves what there is and returns an Outcome
// whose `interrupted` is set; the same command then goes on from there.
Outcome run(const Recipe& recipe, const RunOptions& options);

// What run() would do, from the config.json of the models alone: coverage and memory, on stderr; of
// what does not fit also what several cards would hold.
void plan(const Recipe& recipe);

}  // namespace qad::recipe
