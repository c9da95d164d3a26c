// The way of the data, walked once. Each stage says on stderr what it found; nothing is written
// into the output folder but whole files.
#include "recipe/run.h"

#include <csignal>

#include <algorithm>
#include <chrono>

#include "core/console.h"
#include "core/error.h"
#include "data/batches.h"
#include "generate/generate.h"
#include "recipe/progress.h"
#include "recipe/steps.h"

namespace qad::recipe {
namespace {

volatile std::sig_atomic_t interrupted = 0;

// While alive, the first Ctrl-C asks the trainer to save and stop; a second one ends the program.
class InterruptGuard {
 public:
  InterruptGuard() {
    interrupted = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, &old_int_);
    sigaction(SIGTERM, &action, &old_term_);
  }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  ~InterruptGuard() {
    sigaction(SIGINT, &old_int_, nullptr);
    sigaction(SIGTERM, &old_term_, nullptr);
  }

 private:
  struct sigaction old_int_ {
  }, old_term_{};
};

struct DataSets {
  std::vector<data::Source> train;
  std::vector<data::Document> calibration;
  std::vector<data::Batch> validation, test;
  std::int64_t train_tokens = 0;
};

DataSets read_data(const Recipe& recipe, const text::Tokenizer& tokenizer) {
  const data::RenderOptions options = render_options_of(recipe);
  DataSets sets;
  if (recipe.method != "ptq") {
    for (const DataFile& file : recipe.data.train) {
      data::Source source;
      source.documents = data::read_documents(file.file, tokenizer, options);
      source.sequences = data::pack(source.documents, recipe.train.seq_len, recipe.data.pack);
      source.weight = file.weight;
      for (const auto& d : source.documents)
        sets.train_tokens += static_cast<std::int64_t>(d.ids.size());
      check(!source.sequences.empty(), "read_data",
            "{}: fewer tokens than one sequence of train.seq_len = {}", file.file,
            recipe.train.seq_len);
      sets.train.push_back(std::move(source));
    }
  }
  const std::string calibration = !recipe.calibration.data.empty() || recipe.data.train.empty()
                                      ? recipe.calibration.data
                                      : recipe.data.train.front().file;
  if (!calibration.empty()) {
    data::RenderOptions few = options;
    few.max_documents = recipe.calibration.sequences;
    sets.calibration = data::read_documents(calibration, tokenizer, few);
  }
  const auto held_out = [&](const std::string& file, std::int64_t most) {
    data::RenderOptions limited = options;
    limited.max_documents = most;
    return evaluate::evaluation_batches(data::read_documents(file, tokenizer, limited),
                                        recipe.train.seq_len);
  };
  sets.test = held_out(recipe.data.test, recipe.data.max_test_documents);
  if (!recipe.data.validation.empty())
    sets.validation = held_out(recipe.data.validation, recipe.data.max_validation_documents);
  return sets;
}

evaluate::Metrics measure(const char* label, const models::Model& model,
                          const models::Model* teacher, const std::vector<data::Batch>& batches) {
  Progress progress(fmt::format("evaluate {:<4} ", label));
  return evaluate::evaluate(model, teacher, batches, [&](std::size_t done) {
    progress.show(fmt::format("{}/{} batches", done, batches.size()));
  });
}

std::int64_t parameter_count(models::Model& model) {
  std::int64_t n = 0;
  for (const models::Parameter* p : models::parameters(model)) n += p->value.numel();
  return n;
}

double clipped_share(models::Model& model) {
  double clipped = 0, seen = 0;
  for (const models::Linear* linear : models::linears(model)) {
    if (!linear->quant) continue;
    clipped += static_cast<double>(linear->quant->clipped);
    seen += static_cast<double>(linear->quant->seen);
  }
  return seen > 0 ? clipped / seen : 0;
}

void add_samples(Outcome& outcome, const char* label, const models::Model& model,
                 const text::Tokenizer& tokenizer) {
  const Recipe& recipe = outcome.recipe;
  for (const std::string& prompt : recipe.samples.prompts) {
    generate::SamplingOptions options;
    options.max_tokens = recipe.samples.max_tokens;
    options.temperature = recipe.samples.temperature;
    options.seed = static_cast<std::uint64_t>(recipe.seed);
    const auto ids = tokenizer.encode(prompt);
    check(!ids.empty(), "samples", "samples.prompts: \"{}\" has no tokens", prompt);
    const auto made = generate::generate(model, ids, options);
    outcome.samples.push_back({label, prompt, prompt + tokenizer.decode(made)});
  }
}

void train(Outcome& outcome, LoadedModel& student, std::vector<at::Tensor> originals,
           const models::Model& teacher, const quantize::Policy& policy, DataSets& sets) {
  const Recipe& recipe = outcome.recipe;
  const fs::path output = recipe.output;
  distill::TrainConfig config = train_config_of(recipe);
  config.state_folder = output / "state";
  const models::Model* guide = recipe.method == "qat" ? nullptr : &teacher;
  const data::Stream stream(std::move(sets.train), config.seed);
  distill::Trainer trainer(student.model, std::move(originals), guide, policy, config);
  const InterruptGuard guard;
  TrainingLog log(output);
  distill::Callbacks callbacks;
  callbacks.started = [&](std::int64_t steps_done) { log.started(steps_done); };
  callbacks.step = [&](const distill::StepInfo& s) {
    log.step(s, config.seq_len * config.batch_sequences);
  };
  callbacks.validation = [&](const distill::Validation& v) { log.validation(v); };
  callbacks.stop = [] { return interrupted != 0; };
  outcome.training = trainer.train(stream, sets.validation, callbacks);
  outcome.steps = log.steps();
  if (outcome.training.interrupted) {
    note("interrupted after step {}; the same command goes on from there",
         outcome.training.steps_done);
    return;
  }

  // The report's checkpoint choice: of the candidates kept by validation loss evaluate each and
  // take the best. Until benchmarks exist, "best" is the least KL to the teacher on the validation
  // data (for QAT its loss).
  std::size_t best = 0;
  for (const distill::Validation& kept : outcome.training.kept) {
    const std::optional<double> kl = guide != nullptr ? std::optional(kept.kl) : std::nullopt;
    outcome.candidates.push_back({kept.step, kept.loss, kl, false});
    const Candidate& leader = outcome.candidates[best];
    const Candidate& last = outcome.candidates.back();
    if (last.kl.value_or(last.validation_loss) < leader.kl.value_or(leader.validation_loss))
      best = outcome.candidates.size() - 1;
  }
  if (!outcome.candidates.empty()) {
    outcome.candidates[best].chosen = true;
    trainer.restore(outcome.candidates[best].step);
    note("checkpoint  step {}, best of {} candidates", outcome.candidates[best].step,
         outcome.candidates.size());
  }
  outcome.student = measure("QAD", student.model, &teacher, sets.test);
  add_samples(outcome, recipe.method == "qat" ? "QAT" : "QAD", student.model, student.tokenizer);
  write_checkpoint(output / "checkpoint", student.model, trainer.masters(), student.source);
  fs::remove_all(config.state_folder);  // the run is complete: nothing to resume
}

}  // namespace

Outcome run(const Recipe& recipe, const RunOptions& options) {
  validate(recipe);
  const auto start = std::chrono::steady_clock::now();
  Outcome outcome;
  outcome.recipe = recipe;
  outcome.command_line = options.command_line;

  LoadedModel student = load_model(recipe.model);
  check(!student.quantized(), "distill",
        "{}: is already quantised; distil from the BF16 checkpoint", recipe.model);
  const std::string teacher_path = recipe.teacher.empty() ? recipe.model : recipe.teacher;
  const LoadedModel teacher = load_model(teacher_path);
  check(!teacher.quantized() || recipe.teacher_quantized, "distill",
        "{}: the teacher is itself quantised; say teacher_quantized: true if you mean it",
        teacher_path);
  check(
      teacher.tokenizer.fingerprint() == student.tokenizer.fingerprint() &&
          teacher.model.config.vocabulary == student.model.config.vocabulary,
      "distill",
      "{}: the teacher's vocabulary ({} ids) is not the student's ({} ids); distillation compares "
      "distributions over the same tokens",
      teacher_path, teacher.model.config.vocabulary, student.model.config.vocabulary);
  outcome.architecture = student.model.config.architecture;
  outcome.parameters = parameter_count(student.model);
  const quantize::Policy policy = policy_of(recipe);
  outcome.coverage = quantize::coverage(student.model, policy);
  for (const auto& row : outcome.coverage) {
    outcome.bytes_before += row.bytes_before;
    outcome.bytes_after += row.bytes_after;
  }
  note("model       {} ({}), {} parameters, {}", recipe.model, outcome.architecture,
       human_count(static_cast<double>(outcome.parameters)),
       human_bytes(static_cast<double>(outcome.bytes_before)));
  note("{}", quantize::coverage_table(outcome.coverage));
  if (recipe.method != "ptq" || options.dry_run) {
    const auto plan =
        distill::plan_memory(student.model.config, &teacher.model.config, train_config_of(recipe));
    for (const auto& [what, bytes] : plan.bytes)
      if (options.dry_run)
        note("memory      {:<28} {:>10}", what, human_bytes(static_cast<double>(bytes)));
    note("memory      {} expected at the peak", human_bytes(static_cast<double>(plan.total())));
  }
  if (options.dry_run) return outcome;

  DataSets sets = read_data(recipe, student.tokenizer);
  outcome.teacher = measure("BF16", teacher.model, &teacher.model, sets.test);
  add_samples(outcome, "BF16", teacher.model, student.tokenizer);

  std::vector<at::Tensor> originals = values_of(student.model);
  calibrate_and_quantize(
      student.model, policy,
      calibration_batches(
          sets.calibration, recipe.calibration.sequences,
          recipe.calibration.seq_len > 0 ? recipe.calibration.seq_len : recipe.train.seq_len));
  outcome.layer_errors = quantize::weight_errors(student.model, originals);
  outcome.ptq = measure("PTQ", student.model, &teacher.model, sets.test);
  outcome.clipped_share = clipped_share(student.model);
  note("activations {:.2g} % clipped", 100 * outcome.clipped_share);
  add_samples(outcome, "PTQ", student.model, student.tokenizer);

  fs::create_directories(recipe.output);
  if (recipe.method == "ptq") {
    write_checkpoint(fs::path(recipe.output) / "checkpoint", student.model, originals,
                     student.source);
  } else {
    train(outcome, student, std::move(originals), teacher.model, policy, sets);
  }
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

}  // namespace qad::recipe
