// qad compare: results of several models side by side.
#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "recipe/benchmarks.h"

namespace qad::cli {
namespace {

struct Options {
  std::vector<std::string> results;
  std::optional<std::string> page;
  std::string title = "Benchmarks";
  bool rescore = false;
  std::int64_t samples = 60, threads = 0;
};

}  // namespace

void add_compare(CLI::App& app) {
  Command command(app, "compare", "benchmarks of several models: table, differences, page");
  auto o = std::make_shared<Options>();
  command.words("results", o->results,
                "files of qad evaluate --tasks; others are compared with the first");
  command.optional("-o,--output", o->page, "page (.html) with the table and what the models said");
  command.text("--title", o->title, "of the page");
  command.number("--samples", o->samples,
                 "problems of each task on the page, those judged differently first");
  command.flag("--rescore", o->rescore,
               "judge the responses again and write the results anew; no model is needed");
  command.number("--threads", o->threads, "programs and judges at a time; 0: one a core");
  command.run([o] {
    std::vector<evaluate::Results> all;
    for (const std::string& file : o->results) {
      all.push_back(evaluate::read_results(file));
      if (!o->rescore) continue;
      recipe::score_again(all.back(), o->threads);
      evaluate::write_results(file, all.back());
    }
    const report::Benchmarks b = recipe::compare(all, static_cast<std::size_t>(o->samples));
    fmt::print("{}", report::benchmark_table(b));
    for (const std::string& said : b.notes) note("{}", said);
    if (o->page) write_file(*o->page, report::benchmark_page(o->title, b));
    return 0;
  });
}

}  // namespace qad::cli
