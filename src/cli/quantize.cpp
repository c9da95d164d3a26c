// qad quantize: post-training quantisation alone.
#include "quantize/quantize.h"

#include <array>

#include "checkpoint/write.h"
#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "recipe/quantize_steps.h"
#include "recipe/steps.h"

namespace qad::cli {
namespace {

struct Options {
  std::string model, output, recipe = "nvfp4";
  std::array<std::optional<std::string>, 5> shorts;  // of kFlags
  std::vector<std::string> sets;
  ComputeOptions compute;
};

// Flags that are recipe keys under a shorter name.
constexpr std::array<std::array<const char*, 3>, 5> kFlags = {{
    {"--calib", "calibration.data",
     "calibration data (.txt or .jsonl); weight-only, without Hessians and FP8 caches, needs none"},
    {"--calib-sequences", "calibration.sequences", "sequences of it that are used [64]"},
    {"--seq-len", "calibration.seq_len", "tokens a sequence [512]"},
    {"--global-scale", "quantize.global_scale", "pow2 or amax [pow2]"},
    {"--format", "format", "modelopt, compressed-tensors, gguf, ... (docs/formats.md) [modelopt]"},
}};

recipe::Recipe recipe_of(const Options& o) {
  const bool is_file = o.recipe.ends_with(".yaml") || o.recipe.ends_with(".yml");
  recipe::Recipe r = is_file ? recipe::load_recipe(o.recipe) : recipe::Recipe{};
  if (!is_file) {
    recipe::set_key(r, "quantize.policy", o.recipe, "--recipe");
    r.calibration.seq_len = 512;
  }
  for (std::size_t i = 0; i < kFlags.size(); ++i)
    if (o.shorts[i]) recipe::set_key(r, kFlags[i][1], *o.shorts[i], kFlags[i][0]);
  for (const std::string& assignment : o.sets) {
    check(assignment.starts_with("quantize.") || assignment.starts_with("calibration."), "quantize",
          "--set {}: only keys under quantize and calibration mean something here", assignment);
    recipe::set_assignment(r, assignment);
  }
  check(r.quantize.transform.empty() && r.quantize.bits == 0 && r.quantize.low_rank == 0,
        "quantize", "{}: needs the whole model in memory; use qad distill --method ptq",
        r.quantize.bits > 0       ? "quantize.bits"
        : r.quantize.low_rank > 0 ? "quantize.low_rank"
                                  : "quantize.transform");
  r.device = o.compute.device;
  recipe::check_precisions(r);
  const recipe::Recipe plain;
  check(
      r.quantize.smoothing == plain.quantize.smoothing &&
          r.quantize.sensitivity_tokens == plain.quantize.sensitivity_tokens,
      "quantize",
      "quantize.smoothing and quantize.sensitivity_tokens: are for transformations and budgets of "
      "bits, which qad distill --method ptq has");
  check(r.calibration.sequences > 0, "quantize", "--calib-sequences: expected at least 1");
  return r;
}

}  // namespace

void add_quantize(CLI::App& app) {
  Command command(
      app, "quantize",
      "post-training quantisation: an NVFP4 checkpoint without training, layer by layer; "
      "the model may be larger than memory (what needs it whole, quantize.transform, "
      "quantize.low_rank and quantize.bits, is for qad distill --method ptq)");
  auto o = std::make_shared<Options>();
  command.required("model", o->model, "BF16 checkpoint: an HF folder, a .gguf or a llama2.c .bin");
  command.required("-o,--output", o->output, "folder to write");
  command.text("--recipe", o->recipe,
               fmt::format("{}, or a recipe file", fmt::join(quantize::presets(), ", ")));
  for (std::size_t i = 0; i < kFlags.size(); ++i)
    command.optional(kFlags[i][0], o->shorts[i], kFlags[i][2]);
  command.repeated("--set", o->sets, "key=value: a recipe key under quantize or calibration");
  add_compute_options(command, o->compute);
  command.run([o] {
    apply(o->compute);
    const recipe::Recipe r = recipe_of(*o);
    const models::Placement placement = models::decoding_placement_of(o->compute.device);
    checkpoint::check_writable_target(o->output, o->model);
    recipe::LoadedModel opened = recipe::open_model(o->model, placement);
    check(!opened.quantized(), "quantize",
          "{}: is already quantised; qad convert --format hf-bf16 makes plain values of it",
          o->model);
    const quantize::Policy policy = recipe::policy_of(r);
    const auto rows = quantize::coverage(opened.model, policy);
    recipe::check_format(o->output, opened.source, opened.model, policy, r.format);
    const auto batches = recipe::calibration_batches(r, opened.tokenizer);
    const std::string data = r.calibration.data.empty() && !r.data.train.empty()
                                 ? r.data.train.front().file
                                 : r.calibration.data;
    recipe::quantize_on_disk(
        o->output, opened.source, opened.model, policy, batches, r.format,
        fmt::format(
            "Post-training quantisation of {}, policy {}{}.\n", checkpoint::model_name(o->model),
            r.quantize.policy,
            policy.activations ? ", input scales from " + fs::path(data).filename().string() : ""));
    fmt::print("{}\nwrote {}\n", quantize::coverage_table(rows), o->output);
    return 0;
  });
}

}  // namespace qad::cli
