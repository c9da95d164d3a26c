// qad evaluate: cross-entropy, perplexity, and KL and top-1 agreement against a teacher, on
// held-out text.
#include <algorithm>

#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "core/json.h"
#include "data/dataset.h"
#include "evaluate/evaluate.h"
#include "recipe/steps.h"

namespace qad::cli {
namespace {

struct Options {
  std::string model, teacher, data, mask = "all";
  std::int64_t seq_len = 512, documents = 0;
  bool json = false;
  ComputeOptions compute;
};

Json as_json(const evaluate::Metrics& m) {
  Json j;
  const auto put = [&](const char* key, const std::optional<evaluate::Value>& v) {
    j[key] = v ? Json(v->mean) : Json();
    j[std::string(key) + "_se"] = v ? Json(v->se) : Json();
  };
  put("ce", m.ce);
  put("ppl", m.ppl);
  put("kl", m.kl);
  put("top1", m.top1);
  j["tokens"] = m.tokens;
  j["documents"] = m.documents;
  return j;
}

}  // namespace

void add_evaluate(CLI::App& app) {
  Command command(app, "evaluate",
                  "cross-entropy, perplexity, KL and top-1 agreement on held-out text");
  auto o = std::make_shared<Options>();
  command.required("model", o->model, "checkpoint, BF16 or NVFP4");
  command.text("--teacher", o->teacher, "checkpoint to compare with (same vocabulary)");
  command.required("--data", o->data, ".txt or .jsonl");
  command.number("--seq-len", o->seq_len, "documents are scored in pieces of this many tokens",
                 std::int64_t{2}, std::int64_t{1} << 20);
  command.number("--documents", o->documents, "first documents only; 0: all");
  command.choice("--mask", o->mask, {"all", "assistant"}, "tokens that are scored");
  command.flag("--json", o->json,
               "one JSON object on stdout: ce, ppl, kl, top1 with standard errors (*_se)");
  add_compute_options(command, o->compute);
  command.run([o] {
    apply(o->compute);
    const models::Placement placement = models::placement_of(o->compute.device);
    const recipe::LoadedModel loaded = recipe::load_model(o->model, placement);
    std::optional<recipe::LoadedModel> teacher;
    if (!o->teacher.empty()) {
      teacher = recipe::load_model(o->teacher, placement);
      recipe::check_same_vocabulary("evaluate", *teacher, loaded);
    }
    data::RenderOptions options;
    if (o->mask == "assistant") options.mask = data::Mask::assistant;
    options.max_documents = o->documents;
    const auto documents = data::read_documents(o->data, loaded.tokenizer, options);
    const auto batches = evaluate::evaluation_batches(documents, o->seq_len);
    evaluate::Metrics m;
    {
      Progress progress("evaluate ");
      m = evaluate::evaluate(loaded.model, teacher ? &teacher->model : nullptr, batches,
                             [&](std::size_t done) {
                               progress.show(fmt::format("{}/{} batches", done, batches.size()));
                             });
    }
    if (o->json) {
      fmt::print("{}\n", as_json(m).dump(2));
      return 0;
    }
    const auto line = [](const char* name, const std::optional<evaluate::Value>& v) {
      if (v) fmt::print("{:<5} {:.4f} +- {:.4f}\n", name, v->mean, v->se);
    };
    line("ce", m.ce);
    line("ppl", m.ppl);
    line("kl", m.kl);
    line("top1", m.top1);
    fmt::print("{} tokens of {} documents\n", m.tokens, m.documents);
    return 0;
  });
}

}  // namespace qad::cli
