// qad verify: everything that a consumer could trip over, listed.
#include "checkpoint/verify.h"

#include "cli/commands.h"
#include "core/console.h"
#include "models/verify.h"

namespace qad::cli {

void add_verify(CLI::App& app) {
  Command command(
      app, "verify",
      "structure, names, shapes, finite and shared scales, configuration against tensors");
  auto path = std::make_shared<std::string>();
  command.required("model", *path, "checkpoint");
  command.run([path] {
    const checkpoint::Checkpoint c = checkpoint::open(*path);
    std::vector<std::string> problems = checkpoint::problems(c);
    for (std::string& problem : models::problems(c)) problems.push_back(std::move(problem));
    for (const std::string& problem : problems) fmt::print("{}\n", problem);
    fmt::print("{}: {}\n", *path,
               problems.empty() ? "sound" : fmt::format("{} problems", problems.size()));
    return problems.empty() ? 0 : 1;
  });
}

}  // namespace qad::cli
