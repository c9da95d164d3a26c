// qad distill: recipe in; checkpoint, table and report out. Every recipe key is also a flag.
#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "recipe/report.h"
#include "recipe/run.h"

namespace qad::cli {
namespace {

struct Options {
  std::string source;
  std::optional<std::string> output;
  std::vector<std::string> sets;
  std::vector<std::pair<std::string, std::optional<std::string>>> keys;  // a slot per recipe key
  bool dry_run = false, print_recipe = false;
};

recipe::Recipe recipe_of(const Options& o) {
  const fs::path source = o.source;
  const bool is_recipe = source.extension() == ".yaml" || source.extension() == ".yml";
  recipe::Recipe r = is_recipe ? recipe::load_recipe(source) : recipe::Recipe{};
  if (!is_recipe && !o.source.empty()) r.model = o.source;
  for (const std::string& assignment : o.sets) recipe::set_assignment(r, assignment);
  for (const auto& [key, value] : o.keys)
    if (value) recipe::set_key(r, key, *value, "--" + key);
  if (o.output) r.output = *o.output;
  return r;
}

}  // namespace

void add_distill(CLI::App& app) {
  Command command(app, "distill",
                  "BF16 checkpoint in; NVFP4 checkpoint, table BF16 | PTQ | QAD and report out");
  auto o = std::make_shared<Options>();
  command.text("source", o->source, "recipe (.yaml), or the model to distil");
  command.repeated("--set", o->sets, "key=value: changes a recipe key; may be repeated");
  command.optional("-o", o->output, "the same as --output, and stronger");
  command.flag(
      "--dry-run", o->dry_run,
      "print what would be quantised and the memory it takes, where that is too much also on "
      "4 and 8 cards, and stop; of the models a config.json is enough, "
      "but for train.cache_teacher");
  command.flag("--print-recipe", o->print_recipe, "print the whole recipe as YAML, and stop");
  command.group("Recipe keys (in YAML: the same names, nested)");
  const auto keys = recipe::keys();
  o->keys.reserve(keys.size());
  for (const recipe::KeyInfo& key : keys) {
    auto& [name, value] = o->keys.emplace_back(key.key, std::nullopt);
    std::string help = key.help + " [" + key.value + "]";
    if (!key.words.empty()) help += " {" + key.words + "}";
    command.optional("--" + name, value, help);
  }
  command.run([o] {
    const recipe::Recipe r = recipe_of(*o);
    if (o->print_recipe) {
      fmt::print("{}", recipe::to_yaml(r));
      return 0;
    }
    apply({r.device, r.threads});
    if (o->dry_run) {
      recipe::plan(r);
      return 0;
    }
    const recipe::Outcome outcome = recipe::run(r, {command_line});
    if (outcome.interrupted) return 130;
    fmt::print("{}", recipe::summary(outcome));
    return 0;
  });
}

}  // namespace qad::cli
