// qad quantize: post-training quantisation alone.
#include "quantize/quantize.h"
#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "data/dataset.h"
#include "recipe/steps.h"

namespace qad::cli {
namespace {

struct Options {
  std::string model, output, recipe = "nvfp4", calibration, global_scale, format = "modelopt";
  std::vector<std::string> sets;
  std::int64_t sequences = 64, seq_len = 512;
  ComputeOptions compute;
};

recipe::Recipe recipe_of(const Options& o) {
  const bool is_file = o.recipe.ends_with(".yaml") || o.recipe.ends_with(".yml");
  recipe::Recipe r = is_file ? recipe::load_recipe(o.recipe) : recipe::Recipe{};
  if (!is_file) recipe::set_key(r, "quantize.policy", o.recipe, "--recipe");
  if (!o.global_scale.empty())
    recipe::set_key(r, "quantize.global_scale", o.global_scale, "--global-scale");
  for (const std::string& assignment : o.sets) recipe::set_assignment(r, assignment);
  return r;
}

}  // namespace

void add_quantize(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "quantize", "post-training quantisation: an NVFP4 checkpoint without training");
  auto o = std::make_shared<Options>();
  command
      ->add_option("model", o->model, "BF16 checkpoint: an HF folder, a .gguf or a llama2.c .bin")
      ->required();
  command->add_option("-o,--output", o->output, "folder to write")->required();
  command
      ->add_option("--recipe", o->recipe,
                   "nvfp4, nvfp4-weight-only, nvfp4-mlp-only, or a recipe file")
      ->capture_default_str();
  command->add_option("--calib", o->calibration,
                      "calibration data (.txt or .jsonl); not needed for weight-only");
  command->add_option("--calib-sequences", o->sequences, "sequences used")->capture_default_str();
  command->add_option("--seq-len", o->seq_len, "tokens a sequence")->capture_default_str();
  command->add_option("--global-scale", o->global_scale, "pow2 or amax")
      ->check(CLI::IsMember({"pow2", "amax"}));
  command->add_option("--format", o->format, "layout of the checkpoint")
      ->check(CLI::IsMember({"modelopt"}))
      ->capture_default_str();
  command->add_option("--set", o->sets, "key=value: a recipe key under quantize.*")->take_all();
  add_compute_options(*command, o->compute);
  command->callback([o] {
    apply(o->compute);
    const recipe::Recipe r = recipe_of(*o);
    recipe::LoadedModel loaded = recipe::load_model(o->model);
    check(!loaded.quantized(), "quantize", "{}: is already quantised", o->model);
    const quantize::Policy policy = recipe::policy_of(r);
    const auto rows = quantize::coverage(loaded.model, policy);
    std::vector<models::Tokens> batches;
    if (policy.activations) {
      check(!o->calibration.empty(), "quantize",
            "--calib is missing: input scales need data (--recipe nvfp4-weight-only needs none)");
      data::RenderOptions options = recipe::render_options_of(r);
      options.max_documents = o->sequences;
      batches = recipe::calibration_batches(
          data::read_documents(o->calibration, loaded.tokenizer, options), o->sequences,
          o->seq_len);
    }
    const std::vector<at::Tensor> originals = recipe::values_of(loaded.model);
    recipe::calibrate_and_quantize(loaded.model, policy, batches);
    recipe::write_checkpoint(o->output, loaded.model, originals, loaded.source);
    fmt::print("{}\nwrote {}\n", quantize::coverage_table(rows), o->output);
  });
}

}  // namespace qad::cli
