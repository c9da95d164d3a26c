// qad distill: recipe in; checkpoint, table and report out. Every recipe key is also a flag.
#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "recipe/report.h"
#include "recipe/run.h"

namespace qad::cli {
namespace {

struct Options {
  std::string source, output;
  std::vector<std::string> sets;
  std::vector<std::pair<std::string, std::string>> keys;  // filled with a slot per recipe key
  bool dry_run = false, print_recipe = false;
};

recipe::Recipe recipe_of(const Options& o, const CLI::App& command) {
  const fs::path source = o.source;
  const bool is_recipe = source.extension() == ".yaml" || source.extension() == ".yml";
  recipe::Recipe r = is_recipe ? recipe::load_recipe(source) : recipe::Recipe{};
  if (!is_recipe && !o.source.empty()) r.model = o.source;
  for (const std::string& assignment : o.sets) recipe::set_assignment(r, assignment);
  for (const auto& [key, value] : o.keys)
    if (command.count("--" + key) > 0) recipe::set_key(r, key, value, "--" + key);
  if (!o.output.empty()) r.output = o.output;
  return r;
}

}  // namespace

void add_distill(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "distill", "BF16 checkpoint in; NVFP4 checkpoint, table BF16 | PTQ | QAD and report out");
  auto o = std::make_shared<Options>();
  command->add_option("source", o->source, "recipe (.yaml), or the model to distil");
  command->add_option("--set", o->sets, "key=value: changes a recipe key; may be repeated")
      ->take_all();
  command->add_option("-o", o->output, "the same as --output");
  command->add_flag("--dry-run", o->dry_run,
                    "print what would be quantised and the memory it takes, and stop");
  command->add_flag("--print-recipe", o->print_recipe, "print the whole recipe as YAML, and stop");
  const auto keys = recipe::keys();
  o->keys.reserve(keys.size());
  for (const recipe::KeyInfo& key : keys) {
    auto& [name, value] = o->keys.emplace_back(key.key, "");
    std::string help = key.help + " [" + key.value + "]";
    if (!key.words.empty()) help += " {" + key.words + "}";
    command->add_option("--" + name, value, help)
        ->take_last()
        ->group("Recipe keys (in YAML: the same names, nested)");
  }
  command->callback([o, command] {
    const recipe::Recipe r = recipe_of(*o, *command);
    if (o->print_recipe) {
      fmt::print("{}", recipe::to_yaml(r));
      return;
    }
    apply({r.device, static_cast<int>(r.threads)});
    if (o->dry_run) {
      recipe::plan(r);
      return;
    }
    const recipe::Outcome outcome = recipe::run(r, {command_line});
    if (outcome.training.interrupted) throw CLI::RuntimeError(130);
    fmt::print("{}", recipe::summary(outcome));
  });
}

}  // namespace qad::cli
