// The way of the data, walked once. Each stage says on stderr what it found; nothing is written
// into the output folder but whole files.
#include "recipe/run.h"

#include <unistd.h>

#include <algorithm>
#include <limits>

#include "checkpoint/write.h"
#include "core/console.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "data/batches.h"
#include "generate/generate.h"
#include "quantize/low_rank.h"
#include "recipe/benchmarks.h"
#include "recipe/cards.h"
#include "recipe/data_free.h"
#include "recipe/progress.h"
#include "recipe/quantize_steps.h"
#include "recipe/report.h"
#include "recipe/steps.h"
#include "text/model_files.h"

namespace qad::recipe {
namespace {

struct DataSets {
  std::vector<data::Source> train;
  std::vector<data::Batch> validation, selection, test;
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
      check(!source.sequences.empty(), "read_data",
            "{}: fewer tokens than one sequence of train.seq_len = {}", file.file,
            recipe.train.seq_len);
      sets.train.push_back(std::move(source));
    }
  }
  const auto held_out = [&](const std::string& file, std::int64_t most) {
    data::RenderOptions limited = options;
    limited.max_documents = most;
    return evaluate::evaluation_batches(data::read_documents(file, tokenizer, limited),
                                        recipe.train.seq_len);
  };
  sets.test = held_out(recipe.data.test, recipe.data.max_test_documents);
  if (!recipe.data.selection.empty()) sets.selection = held_out(recipe.data.selection, 0);
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

// Makes the output folder and finds out whether it can take the checkpoint: before an hour's work,
// not after. A run that ends in an error before it wrote anything leaves no folder.
class OutputFolder {
 public:
  OutputFolder(fs::path path, const fs::path& model) : path_(std::move(path)) {
    std::error_code error;
    fs::create_directories(path_, error);
    check(!error, "distill", "{}: cannot make the output folder: {}", path_.string(),
          error.message());
    checkpoint::check_writable_target(path_ / "checkpoint", model);
  }
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  ~OutputFolder() {
    std::error_code ignored;
    fs::remove(path_, ignored);  // fails, as it should, for a folder that holds anything
  }

 private:
  fs::path path_;
};

void note_untied(bool untied) {
  if (untied)
    note(
        "hadamard    the head, which was the embedding, has weights of its own: the final norm's "
        "go into them; tie_word_embeddings becomes false");
}

// What the model is and what will become of it, on stderr and in the outcome.
void describe(Outcome& outcome, const models::Model& student, const quantize::Policy& policy) {
  const Recipe& recipe = outcome.recipe;
  outcome.architecture = student.config.architecture;
  outcome.parameters = outcome.bytes_before = outcome.bytes_after = 0;
  outcome.coverage = quantize::coverage(student, policy);
  for (const auto& row : outcome.coverage) {
    outcome.parameters += row.parameters;
    outcome.bytes_before += row.bytes_before;
    outcome.bytes_after += row.bytes_after;
  }
  note("model       {} ({}), {} parameters, {}", recipe.model, outcome.architecture,
       human_count(static_cast<double>(outcome.parameters)),
       human_bytes(static_cast<double>(outcome.bytes_before)));
  note("{}", quantize::coverage_table(outcome.coverage));
  if (policy.fp8_cache) note("cache       keys and values in FP8 (E4M3)");
}

std::int64_t tokens_of(const std::vector<data::Source>& sources) {
  std::int64_t tokens = 0;
  for (const data::Source& source : sources) tokens += data::token_count(source);
  return tokens;
}

// How training will run, said on stderr with what it takes. On a GPU with `room` bytes a
// micro-batch that the recipe leaves open is the largest that fits; room 0: not known, the whole
// batch. `epoch_tokens` as plan_memory wants them.
distill::TrainConfig plan_training(const Recipe& recipe, const models::ModelConfig& student,
                                   const models::ModelConfig& teacher, models::Placement& placement,
                                   std::int64_t epoch_tokens, double room) {
  distill::TrainConfig config = train_config_of(recipe);
  if (recipe.method == "ptq") return config;
  check(recipe.train.recompute_layers <= static_cast<std::int64_t>(student.layers.size()), "recipe",
        "train.recompute_layers: the model has {} layers, found {}", student.layers.size(),
        recipe.train.recompute_layers);
  placement.recomputed_layers = recipe.train.recompute_layers;
  const bool gpu = !placement.device.is_cpu();
  const quantize::Policy policy = policy_of(recipe);
  bool fits = true;
  if (gpu && room > 0) {
    const distill::Fit fit =
        distill::fit_memory(student, &teacher, config, placement, room, epoch_tokens, policy);
    fit.apply(config, placement);
    fits = fit.fits;
  }
  const distill::MemoryPlan plan =
      distill::plan_memory(student, &teacher, config, placement, epoch_tokens, policy);
  for (const auto& [what, bytes] : plan.bytes)
    note("memory      {:<28} {:>10}", what, human_bytes(bytes));
  note("memory      {:<28} {:>10}{}", gpu ? "expected on the GPU" : "expected at the peak",
       human_bytes(plan.total()), room > 0 ? " of " + human_bytes(room) : "");
  if (config.micro_batch() < config.batch_sequences)
    note("micro-batch {} of {} sequences", config.micro_batch(), config.batch_sequences);
  if (gpu && recipe.train.cuda_graphs && !config.cuda_graphs)
    note("CUDA graphs are off: memory is too short for their own");
  if (placement.recomputed_layers > 0)
    note("recompute   {} of {} layers run again in the backward pass", placement.recomputed_layers,
         student.layers.size());
  if (!fits)
    note(
        "memory      is too short by this plan; masters: split, optimizer_states: int8 and "
        "gradients: bf16 take less");
  else if (placement.packs_inputs)
    note("memory      is short: inputs are packed for the backward pass");
  return config;
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

BenchmarkJob benchmark_job(const Recipe& recipe) {
  BenchmarkJob job;
  job.tasks = tasks_of(recipe.evaluate.tasks, recipe.evaluate.protocol, recipe.evaluate.set);
  job.seed = static_cast<std::uint64_t>(recipe.seed);
  job.threads = recipe.threads;
  job.engine.cache_bytes = static_cast<double>(recipe.evaluate.cache_gb) * 1e9;
  return job;
}

// False for an interrupt.
bool add_benchmarks(Outcome& outcome, const char* label, const models::Model& model,
                    const text::Tokenizer& tokenizer) {
  const Recipe& recipe = outcome.recipe;
  if (recipe.evaluate.tasks.empty()) return true;
  BenchmarkJob job = benchmark_job(recipe);
  job.out = fs::path(recipe.output) / fmt::format("results-{}.json", label);
  note("benchmarks  {}", label);
  auto results = run_benchmarks({model, tokenizer, recipe.model, label}, job);
  if (results) outcome.benchmarks.push_back(std::move(*results));
  outcome.interrupted = !results;
  return !outcome.interrupted;
}

// The report's checkpoint choice: of the candidates kept by validation loss evaluate each and take
// the best, which until benchmarks exist is the nearest to the teacher (for QAT the least loss).
// Without data of their own their validation figures decide.
void choose_checkpoint(Outcome& outcome, distill::Trainer& trainer, const models::Model& student,
                       const models::Model& teacher, const std::vector<data::Batch>& selection) {
  const bool qat = outcome.recipe.method == "qat";
  std::size_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (const distill::Validation& kept : outcome.training.kept) {
    Candidate c{kept.step, kept.loss, qat ? std::nullopt : std::optional(kept.kl), false};
    double score = qat ? kept.loss : kept.kl;
    if (!selection.empty()) {
      trainer.restore(kept.step);
      const evaluate::Metrics m = measure("candidate", student, &teacher, selection);
      c.kl = m.kl->mean;
      score = qat ? m.ce.mean : m.kl->mean;
    }
    if (score < least) {
      least = score;
      best = outcome.candidates.size();
    }
    outcome.candidates.push_back(c);
  }
  if (outcome.candidates.empty()) return;
  outcome.candidates[best].chosen = true;
  trainer.restore(outcome.candidates[best].step);
  note("checkpoint  step {}, best of {} candidates", outcome.candidates[best].step,
       outcome.candidates.size());
}

void train(Outcome& outcome, const distill::TrainConfig& config, LoadedModel& student,
           std::vector<at::Tensor> masters, const models::Model& teacher,
           const quantize::Policy& policy, DataSets& sets) {
  const Recipe& recipe = outcome.recipe;
  const fs::path output = recipe.output;
  const models::Model* guide = recipe.method == "qat" ? nullptr : &teacher;
  const data::Stream stream(std::move(sets.train), config.seed);
  if (config.learn_scales) quantize::fix_scales(student.model, policy, masters);
  distill::Trainer trainer(student.model, std::move(masters), guide, policy, config);
  const Interrupt interrupt;
  TrainingLog log(output, guide != nullptr);
  distill::Callbacks callbacks;
  callbacks.started = [&](std::int64_t steps_done) { log.started(steps_done); };
  callbacks.step = [&](const distill::StepInfo& s) {
    log.step(s, config.seq_len * config.batch_sequences);
  };
  callbacks.validation = [&](const distill::Validation& v) { log.validation(v); };
  callbacks.stop = [&] { return interrupt.asked(); };
  outcome.training = trainer.train(stream, sets.validation, callbacks);
  outcome.steps = log.steps();
  if (outcome.training.interrupted) {
    note("interrupted after step {}; the same command goes on from there",
         outcome.training.steps_done);
    outcome.interrupted = true;
    return;
  }

  choose_checkpoint(outcome, trainer, student.model, teacher, sets.selection);
  clipped_share(student.model);  // the count starts anew
  const char* label = recipe.method == "qat" ? "QAT" : "QAD";
  outcome.student = measure(label, student.model, &teacher, sets.test);
  outcome.clipped_share = clipped_share(student.model);
  add_samples(outcome, label, student.model, student.tokenizer);
  if (!add_benchmarks(outcome, label, student.model, student.tokenizer)) return;
  write_checkpoint(output / "checkpoint", student.model, trainer.masters(), student.source,
                   recipe.format, about(outcome));
}

}  // namespace

Outcome run(const Recipe& recipe, const RunOptions& options) {
  validate(recipe);
  const fs::path output = recipe.output;
  const OutputFolder folder(output, recipe.model);
  Outcome outcome;
  outcome.recipe = recipe;
  outcome.command_line = options.command_line;

  const models::Placement placement = models::placement_of(recipe.device);
  const double room = placement.device.is_cpu() ? 0 : models::memory_of(placement.device).free;
  // As the student will be trained and measured, and as it is until it is quantised.
  models::Placement there = placement, before = placement;
  if (quantizes_in_fp32(recipe)) before.type = at::kFloat;
  LoadedModel student = load_model(recipe.model, before);
  check(
      !student.quantized(), "distill",
      "{}: is already quantised; distil from the BF16 checkpoint, or from its values (qad convert "
      "--format hf-bf16)",
      recipe.model);
  const std::string teacher_path = recipe.teacher.empty() ? recipe.model : recipe.teacher;
  const LoadedModel teacher = load_model(teacher_path, placement);
  check(!teacher.quantized() || recipe.teacher_quantized, "distill",
        "{}: the teacher is itself quantised; say teacher_quantized: true if you mean it",
        teacher_path);
  check_same_vocabulary("distill", teacher, student);
  quantize::Policy policy = policy_of(recipe);
  note_untied(untie_head_for(recipe, student.model));
  {
    models::Model shape = models::build(student.model.config);
    quantize::add_low_rank(shape, policy);
    describe(outcome, shape, policy);
    quantize::check_device(shape, policy, there.device);
    check_format(output / "checkpoint", student.source, shape, policy, recipe.format);
  }

  if (!recipe.evaluate.tasks.empty()) check_benchmarks(benchmark_job(recipe));
  Recipe with_data = recipe;
  if (is_data_free(recipe)) {
    outcome.teacher_data = write_teacher_data(with_data, teacher);
    outcome.interrupted = outcome.teacher_data->interrupted;
    if (outcome.interrupted) {
      note("interrupted; the same command goes on from there");
      return outcome;
    }
  }
  DataSets sets = read_data(with_data, student.tokenizer);
  const distill::TrainConfig config = plan_training(
      recipe, student.model.config, teacher.model.config, there, tokens_of(sets.train), room);
  outcome.teacher = measure("BF16", teacher.model, &teacher.model, sets.test);
  add_samples(outcome, "BF16", teacher.model, student.tokenizer);
  if (!add_benchmarks(outcome, "BF16", teacher.model, student.tokenizer)) return outcome;

  const auto batches = calibration_batches(with_data, student.tokenizer);
  outcome.transforms = transform(student.model, recipe, policy, batches);
  if (policy.low_rank > 0) {
    quantize::split_low_rank(student.model, policy);
    outcome.transforms.push_back(fmt::format(
        "low rank: the {} largest singular values of each NVFP4 weight in BF16", policy.low_rank));
    note("transform   {}", outcome.transforms.back());
  }
  Calibration calibration = calibrate(student.model, policy, batches);
  MixedPrecision chosen = choose_precision(student.model, recipe, policy, calibration, batches);
  if (!chosen.groups.empty()) {
    std::ranges::copy(quantize::rules_of(chosen.groups), std::back_inserter(policy.rules));
    outcome.sensitivities = std::move(chosen.groups);
    outcome.bits = chosen.bits;
    describe(outcome, student.model, policy);
  }
  std::vector<at::Tensor> masters;
  {
    const std::vector<at::Tensor> originals = values_of(student.model);
    masters = quantize_in_memory(student.model, policy, calibration, batches);
    outcome.layer_errors = quantize::weight_errors(student.model, originals);
    outcome.unreached = std::move(calibration.unreached);
  }
  models::move_to(student.model, there);
  for (at::Tensor& master : masters) master = master.to(there.device);
  outcome.ptq = measure("PTQ", student.model, &teacher.model, sets.test);
  outcome.clipped_share = clipped_share(student.model);
  add_samples(outcome, "PTQ", student.model, student.tokenizer);
  if (!add_benchmarks(outcome, "PTQ", student.model, student.tokenizer)) return outcome;

  if (recipe.method == "ptq")
    write_checkpoint(output / "checkpoint", student.model, masters, student.source, recipe.format,
                     about(outcome));
  else
    train(outcome, config, student, std::move(masters), teacher.model, policy, sets);
  if (outcome.interrupted) return outcome;
  if (!placement.device.is_cpu())
    note("memory      {} at the peak on the GPU",
         human_bytes(models::memory_of(placement.device).peak));
  write_report(outcome);
  fs::remove_all(train_config_of(recipe).state_folder);  // the run is complete: nothing to resume
  return outcome;
}

namespace {

double memory_of_machine() {
  return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<double>(::sysconf(_SC_PAGESIZE));
}

// If training by `config` does not fit here, or nobody knows: how it would fit cards.
void plan_cards(const Recipe& recipe, const distill::TrainConfig& config,
                const models::ModelConfig& student, const models::ModelConfig& teacher,
                const models::Placement& placement, std::int64_t epoch_tokens, double room) {
  constexpr double kH200 = 141e9;
  const quantize::Policy policy = policy_of(recipe);
  const bool gpu = !placement.device.is_cpu();
  const double here = gpu ? room : memory_of_machine();
  const double takes =
      distill::plan_memory(student, &teacher, config, placement, epoch_tokens, policy).total();
  if (here > 0 && takes <= here) return;
  if (here > 0) note("memory      does not fit: {} of {}", human_bytes(takes), human_bytes(here));
  note("memory      sharded over cards (ZeRO stage 3, FSDP) a card would hold:\n{}",
       cards_table(train_config_of(recipe), student, teacher, policy, epoch_tokens,
                   gpu && room > 0 ? room : kH200));
  note("memory      this program trains on one card today");
}

}  // namespace

void plan(const Recipe& recipe) {
  validate(recipe);
  Outcome outcome;
  outcome.recipe = recipe;
  models::Model student = models::build(config_of(recipe.model));
  const models::ModelConfig teacher =
      recipe.teacher.empty() ? student.config : config_of(recipe.teacher);
  note_untied(untie_head_for(recipe, student));
  quantize::add_low_rank(student, policy_of(recipe));
  describe(outcome, student, policy_of(recipe));
  // Only a cache of the teacher grows with the data.
  const std::int64_t epoch_tokens =
      !recipe.train.cache_teacher || !recipe.train.cache_folder.empty() || recipe.method == "ptq"
          ? 0
      : is_data_free(recipe)
          ? data_free_synthesis(recipe, text::Tokenizer()).tokens
          : tokens_of(read_data(recipe, text::tokenizer_of(checkpoint::open(recipe.model))).train);
  models::Placement placement = models::placement_named(recipe.device);
  double room = 0;
  if (!placement.device.is_cpu()) {
    try {
      placement = models::placement_of(recipe.device);
      room = models::memory_of(placement.device).free;
    } catch (const Error& e) {  // a plan can be made anywhere
      note("{}\nmemory      of the whole batch at once; on a GPU a run takes what fits", e.what());
    }
  }
  const distill::TrainConfig config =
      plan_training(recipe, student.config, teacher, placement, epoch_tokens, room);
  if (recipe.method != "ptq")
    plan_cards(recipe, config, student.config, teacher, placement, epoch_tokens, room);
}

}  // namespace qad::recipe
