// qad synthesize: data that a teacher writes, to distil from.
#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "recipe/synthesis.h"

namespace qad::cli {
namespace {

struct Options {
  std::string recipe;
  std::optional<std::string> output;
  std::vector<std::string> sets;
  std::int64_t batch_size = 0;
  double cache_gb = 1;
  bool print = false;
};

}  // namespace

void add_synthesize(CLI::App& app) {
  Command command(app, "synthesize", "data from the teacher: a recipe (.yaml) in, JSON lines out");
  auto o = std::make_shared<Options>();
  command.required("recipe", o->recipe,
                   "teacher, output, tokens and sources (recipes/synthesize.yaml)");
  command.optional("-o,--output", o->output,
                   "folder; the same as --set output=FOLDER, and stronger");
  command.repeated("--set", o->sets, "key=value: changes a key of the recipe; may be repeated");
  command.number("--batch-size", o->batch_size,
                 "texts that are written at once; 0: 64 on a CPU, 256 on a GPU", std::int64_t{0});
  command.number("--cache-gb", o->cache_gb, "memory for keys and values");
  command.flag("--print-recipe", o->print, "print the whole recipe as YAML, and stop");
  command.run([o] {
    recipe::Synthesis synthesis = recipe::load_synthesis(o->recipe);
    for (const std::string& set : o->sets) recipe::set_synthesis_key(synthesis, set);
    if (o->output) synthesis.output = *o->output;
    if (o->print) {
      fmt::print("{}", recipe::to_yaml(synthesis));
      return 0;
    }
    recipe::validate(synthesis);
    apply({synthesis.device, synthesis.threads});
    const recipe::LoadedModel teacher =
        recipe::load_model(synthesis.teacher, models::decoding_placement_of(synthesis.device));
    generate::EngineOptions engine;
    engine.most_sequences = o->batch_size;
    engine.cache_bytes = o->cache_gb * 1e9;
    const recipe::SynthesisSummary s = recipe::synthesize(teacher, synthesis, engine);
    if (s.interrupted) {
      note("interrupted; the same command goes on from there");
      return 130;
    }
    fmt::print("{}", recipe::summary_table(s));
    note("{}: train on it with data.train: {}", synthesis.output, synthesis.output);
    return 0;
  });
}

}  // namespace qad::cli
