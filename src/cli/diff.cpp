// qad diff: two checkpoints, weight by weight.
#include "checkpoint/diff.h"

#include <cmath>

#include "cli/commands.h"
#include "core/console.h"

namespace qad::cli {
namespace {

struct Options {
  std::string a, b;
  bool all = false, json = false;
};

Json number(double x) {
  return std::isfinite(x) ? Json(x) : Json();
}

}  // namespace

void add_diff(CLI::App& app) {
  Command command(app, "diff",
                  "two checkpoints weight by weight: equal, or the largest error and the SNR");
  auto o = std::make_shared<Options>();
  command.required("a", o->a, "checkpoint");
  command.required("b", o->b, "another of the same model, in any format");
  command.flag("--all", o->all, "list what is equal too");
  command.flag("--json", o->json, "one JSON object on stdout");
  command.run([o] {
    const checkpoint::Checkpoint a = checkpoint::open(o->a), b = checkpoint::open(o->b);
    Progress progress("diff ");
    const auto found = checkpoint::differences(a, b, [&](std::size_t done, std::size_t all) {
      if (all > 100) progress.show(fmt::format("{} of {} weights", done, all));
    });
    std::size_t equal = 0;
    checkpoint::WeightDifference sum;
    Json lines = Json::array();
    for (const auto& d : found) {
      const bool same = d.kind == "equal";
      equal += same;
      sum.error2 += d.error2;
      sum.a2 += d.a2;
      sum.max_error = std::max(sum.max_error, d.max_error);
      if (same && !o->all) continue;
      lines.push_back({{"name", d.name},
                       {"kind", d.kind},
                       {"max_error", number(d.max_error)},
                       {"snr_db", number(d.snr_db())}});
      if (o->json) continue;
      if (d.kind == "values")
        fmt::print("{:<60} max error {:.3g}  SNR {:.1f} dB\n", d.name, d.max_error, d.snr_db());
      else
        fmt::print("{:<60} {}\n", d.name, d.kind);
    }
    if (o->json) {
      fmt::print("{}\n", Json{{"compared", found.size()},
                              {"equal", equal},
                              {"max_error", number(sum.max_error)},
                              {"snr_db", number(sum.snr_db())},
                              {"tensors", lines}}
                             .dump(2));
    } else {
      fmt::print("{} of {} equal", equal, found.size());
      if (sum.error2 > 0) fmt::print("; SNR over all {:.1f} dB", sum.snr_db());
      fmt::print("\n");
    }
    return equal == found.size() ? 0 : 1;
  });
}

}  // namespace qad::cli
