// qad verify: everything that a consumer could trip over, listed.
#include "checkpoint/verify.h"

#include "checkpoint/engines.h"
#include "cli/commands.h"
#include "core/console.h"
#include "models/verify.h"

namespace qad::cli {
namespace {

struct Options {
  std::string model, engine;
};

}  // namespace

void add_verify(CLI::App& app) {
  Command command(
      app, "verify",
      "structure, names, shapes, finite and shared scales, configuration against tensors");
  auto o = std::make_shared<Options>();
  std::vector<std::string> engines;
  for (const std::string_view engine : checkpoint::engines()) engines.emplace_back(engine);
  command.required("model", o->model, "checkpoint");
  command.choice("--for", o->engine, engines,
                 "an engine: also the rules of its loader, by name (docs/formats.md)");
  command.run([o] {
    const checkpoint::Checkpoint c = checkpoint::open(o->model);
    std::vector<std::string> problems = checkpoint::problems(c);
    for (std::string& problem : models::problems(c)) problems.push_back(std::move(problem));
    if (!o->engine.empty())
      for (const checkpoint::Finding& f : checkpoint::findings(c, o->engine)) {
        if (f.fatal)
          problems.push_back(fmt::format("{}: {}: {}", o->engine, f.rule, f.text));
        else
          fmt::print("note: {}: {}: {}\n", o->engine, f.rule, f.text);
      }
    for (const std::string& problem : problems) fmt::print("{}\n", problem);
    fmt::print("{}: {}{}\n", o->model,
               problems.empty() ? "sound" : fmt::format("{} problems", problems.size()),
               o->engine.empty() ? "" : ", for " + o->engine);
    return problems.empty() ? 0 : 1;
  });
}

}  // namespace qad::cli
