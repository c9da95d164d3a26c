// qad inspect: what a checkpoint is, from its headers alone; against its original also how far each
// weight is from it.
#include <map>

#include "checkpoint/diff.h"
#include "checkpoint/nvfp4_tensors.h"
#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "core/json.h"
#include "models/config.h"
#include "models/model.h"
#include "quantize/policy.h"
#include "recipe/steps.h"
#include "report/heat_map.h"
#include "report/report.h"

namespace qad::cli {
namespace {

struct Options {
  std::string model;
  std::optional<std::string> plan, against, html;
  bool json = false, tensors = false;
};

// What quantisation by a policy would make of a model, from its config.json alone.
int plan(const Options& o) {
  const models::ModelConfig config = recipe::config_of(o.model);
  const auto rows = quantize::coverage(models::build(config), recipe::policy_named(*o.plan));
  double before = 0, after = 0;
  for (const quantize::CoverageRow& row : rows) {
    before += static_cast<double>(row.bytes_before);
    after += static_cast<double>(row.bytes_after);
  }
  if (o.json) {
    Json j = {{"architecture", config.architecture},
              {"policy", *o.plan},
              {"bytes_before", before},
              {"bytes_after", after},
              {"rows", Json::array()}};
    for (const quantize::CoverageRow& row : rows)
      j["rows"].push_back({{"kind", row.kind},
                           {"tensors", row.tensors},
                           {"parameters", row.parameters},
                           {"bytes_before", row.bytes_before},
                           {"bytes_after", row.bytes_after},
                           {"quantized", row.quantized},
                           {"format", quantize::format_of(row)},
                           {"why", row.why}});
    fmt::print("{}\n", j.dump(2));
    return 0;
  }
  fmt::print("{}: {} under {}\n{}{} in BF16, {} quantised\n", o.model, config.architecture, *o.plan,
             quantize::coverage_table(rows), human_bytes(before), human_bytes(after));
  return 0;
}

// The weights of a quantised model against those that it was made of.
int against(const Options& o) {
  const checkpoint::Checkpoint quantised = checkpoint::open(o.model);
  const checkpoint::Checkpoint original = checkpoint::open(*o.against);
  report::Run run;
  for (const auto& [name, t] : quantised.tensors)
    check(!name.ends_with(".svdquant_lora_a"), "inspect",
          "{}: {} has low-rank corrections, which its weights' errors would leave out; the report "
          "of the run that made it has them",
          o.model, name);
  run.title = "Error of " + quantised.path.filename().string();
  run.model = fmt::format("{} against {}", o.model, *o.against);
  bool differ = false;
  for (const auto& d : checkpoint::differences(original, quantised)) {
    check(d.kind == "equal" || d.kind == "values" || d.kind == "only in B", "inspect",
          "{}: {} in {} and {}: expected two checkpoints of one model", d.name, d.kind, *o.against,
          o.model);
    differ |= d.kind == "values";
    // What was only rounded to BF16 would hide the differences between the others.
    if (d.kind == "values" && quantised.has(d.name + "_scale"))
      run.layer_errors.push_back({d.name.substr(0, d.name.size() - 7), d.snr_db()});
  }
  check(!differ || !run.layer_errors.empty(), "inspect",
        "{}: expected quantised weights, found values that differ from {} in other ones alone; qad "
        "diff shows them",
        o.model, *o.against);
  const report::HeatMap map = report::error_map(run.layer_errors);
  if (o.json) {
    Json lines = Json::array();
    for (const auto& e : run.layer_errors)
      lines.push_back({{"name", e.name}, {"sqnr_db", e.sqnr_db}});
    fmt::print("{}\n", Json{{"errors", lines}}.dump(2));
  } else if (map.cells.empty()) {
    fmt::print("the weights of all linears are equal\n");
  } else {
    fmt::print("{}\nSQNR in dB; < marks the worst tenth\n\n{}", run.model, heat_table(map));
  }
  if (o.html) write_file(*o.html, report::error_page(run));
  return 0;
}

// How many layers have each kind of mixer and feed-forward, in the order in which they appear.
Json layer_kinds(const models::ModelConfig& config) {
  Json kinds = Json::object();
  const auto count = [&](const char* kind, bool has) {
    if (has) kinds[kind] = kinds.value(kind, 0) + 1;
  };
  for (const models::LayerConfig& layer : config.layers) {
    count("attention", layer.attention.has_value());
    count("mamba", layer.mamba.has_value());
    count("mlp", layer.mlp.has_value());
    count("experts", layer.experts.has_value());
  }
  return kinds;
}

Json describe(const checkpoint::Checkpoint& c, const models::ModelConfig& config) {
  std::int64_t bytes = 0;
  Json tensors = Json::array();
  std::map<std::string, std::int64_t> types;
  for (const auto& [name, t] : c.tensors) {
    const std::string type = t.stored_as.empty() ? std::string(name_of(t.dtype)) : t.stored_as;
    bytes += t.stored_bytes;
    types[type] += 1;
    tensors.push_back({{"name", name}, {"dtype", type}, {"shape", t.shape}});
  }
  Json j;
  j["path"] = c.path.string();
  j["format"] = c.format;
  j["architecture"] = config.architecture;
  j["parameters"] = models::parameter_count(models::shape_of(c));
  j["bytes"] = bytes;
  j["layers"] = config.layers.size();
  j["layer_kinds"] = layer_kinds(config);
  j["hidden_size"] = config.hidden;
  j["vocab_size"] = config.vocabulary;
  j["tied_embeddings"] = config.tied;
  j["tensor_types"] = types;
  j["quantization"] = c.quantization;
  j["tensors"] = std::move(tensors);
  return j;
}

}  // namespace

void add_inspect(CLI::App& app) {
  Command command(app, "inspect",
                  "architecture, parameters, tensors and quantisation of a checkpoint");
  auto o = std::make_shared<Options>();
  command.required("model", o->model, "an HF folder, a .gguf or a llama2.c .bin");
  command.flag("--json", o->json, "one JSON object on stdout");
  command.flag("--tensors", o->tensors, "list every tensor");
  command.optional("--plan", o->plan,
                   "what quantisation would make of it: a policy (nvfp4, ...) or a recipe file; of "
                   "a folder with config.json alone, or that file");
  command.optional("--against", o->against,
                   "the checkpoint that this one was quantised from: each linear's signal to "
                   "quantisation noise, as a table of layers and kinds");
  command.optional("--html", o->html, "with --against: the same as a page with a heat map");
  command.exclude("--plan", "--tensors");
  command.exclude("--plan", "--against");
  command.exclude("--tensors", "--against");
  command.run([o] {
    check(!o->html || o->against, "inspect", "--html: is for --against");
    if (o->against) return against(*o);
    if (o->plan) return plan(*o);
    const checkpoint::Checkpoint c = checkpoint::open(o->model);
    const models::ModelConfig config = models::parse_config(c.config, c.generation_config);
    const Json j = describe(c, config);
    if (o->json) {
      fmt::print("{}\n", j.dump(2));
      return 0;
    }
    fmt::print("{}: {}, {}\n", o->model, config.architecture, c.format);
    fmt::print("  {} parameters, {}, {} tensors ({})\n", human_count(j["parameters"].get<double>()),
               human_bytes(j["bytes"].get<double>()), c.tensors.size(), j["tensor_types"].dump());
    std::string kinds;
    for (const auto& [kind, layers] : j["layer_kinds"].items())
      kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", layers.get<int>(), kind);
    fmt::print("  {} layers ({}), hidden {}, vocabulary {}{}\n", config.layers.size(), kinds,
               config.hidden, config.vocabulary, config.tied ? ", tied head" : "");
    const checkpoint::Quantization q = checkpoint::read_quantization(c.quantization);
    fmt::print("  quantisation: {}{}\n", q.algo.empty() ? "none" : q.algo + " (" + q.method + ")",
               q.kv_cache_algo.empty() ? "" : ", keys and values " + q.kv_cache_algo);
    if (o->tensors)
      for (const Json& t : j["tensors"])
        fmt::print("  {:<10} {:<20} {}\n", t["dtype"].get<std::string>(), t["shape"].dump(),
                   t["name"].get<std::string>());
    return 0;
  });
}

}  // namespace qad::cli
