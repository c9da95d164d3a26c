// qad diff: two checkpoints, weight by weight, and with data by what each part does to the
// distribution.
#include "checkpoint/diff.h"

#include <cmath>

#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "quantize/sensitivity.h"
#include "recipe/steps.h"

namespace qad::cli {
namespace {

struct Options {
  std::string a, b;
  bool all = false, json = false;
  std::optional<std::string> data;
  std::int64_t tokens = 2048, seq_len = 512;
  ComputeOptions compute;
};

Json number(double x) {
  return std::isfinite(x) ? Json(x) : Json();
}

// KL of A with each part of B, on the first tokens of the data.
std::vector<quantize::PartKl> part_kls(const Options& o) {
  const models::Placement placement = models::placement_of(o.compute.device);
  const recipe::LoadedModel a = recipe::load_model(o.a, placement);
  const recipe::LoadedModel b = recipe::load_model(o.b, placement);
  recipe::check_same_vocabulary("diff", a, b);
  check(o.tokens > 0 && o.seq_len > 0, "diff", "--tokens and --seq-len: expected at least 1");
  recipe::Recipe r;
  r.calibration.data = *o.data;
  r.calibration.seq_len = o.seq_len;
  r.calibration.sequences = o.tokens;  // at least a token each
  const auto batches = recipe::first_tokens(recipe::calibration_batches(r, a.tokenizer), o.tokens);
  Progress progress("diff ");
  return quantize::part_kls(a.model, b.model, batches, [&](std::size_t done, std::size_t all) {
    progress.show(fmt::format("{} of {} parts", done, all), done == all);
  });
}

void print_parts(const std::vector<quantize::PartKl>& parts) {
  double most = 0;
  for (const auto& p : parts)
    if (p.part != "all of B") most = std::max(most, p.kl);
  fmt::print("\nKL of A with one part of B to A, nats a token\n");
  for (const auto& p : parts) {
    const auto width = most > 0 ? static_cast<std::size_t>(40 * std::min(1.0, p.kl / most)) : 0;
    fmt::print("{:<10} {:>10.4g}  {}\n", p.part, p.kl,
               p.part == "all of B" ? "" : std::string(width, '#'));
  }
}

}  // namespace

void add_diff(CLI::App& app) {
  Command command(app, "diff",
                  "two checkpoints weight by weight: equal, or the largest error and the SNR; with "
                  "--data also the KL that each layer of B causes in A");
  auto o = std::make_shared<Options>();
  command.required("a", o->a, "checkpoint");
  command.required("b", o->b, "another of the same model, in any format");
  command.flag("--all", o->all, "list what is equal too");
  command.flag("--json", o->json, "one JSON object on stdout");
  command.optional("--data", o->data,
                   "text (.txt or .jsonl): for each layer the KL to A of A with this layer of B; "
                   "both models are loaded (a rotated model has no layers that fit another)");
  command.number("--tokens", o->tokens, "of --data that are used");
  command.number("--seq-len", o->seq_len, "tokens of a document");
  add_compute_options(command, o->compute);
  command.run([o] {
    const Options plain;
    check(o->data || (o->tokens == plain.tokens && o->seq_len == plain.seq_len), "diff",
          "--tokens and --seq-len: are for --data");
    apply(o->compute);
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
    std::vector<quantize::PartKl> parts;
    if (o->data) parts = part_kls(*o);
    if (o->json) {
      Json out = {{"compared", found.size()},
                  {"equal", equal},
                  {"max_error", number(sum.max_error)},
                  {"snr_db", number(sum.snr_db())},
                  {"tensors", lines}};
      for (const auto& p : parts) out["kl"].push_back({{"part", p.part}, {"kl", number(p.kl)}});
      fmt::print("{}\n", out.dump(2));
    } else {
      fmt::print("{} of {} equal", equal, found.size());
      if (sum.error2 > 0) fmt::print("; SNR over all {:.1f} dB", sum.snr_db());
      fmt::print("\n");
      if (o->data) print_parts(parts);
    }
    return equal == found.size() ? 0 : 1;
  });
}

}  // namespace qad::cli
