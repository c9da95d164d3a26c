// qad bench: the speed of distillation on this machine.
#include "recipe/bench.h"

#include <algorithm>

#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "core/json.h"
#include "recipe/bench_decode.h"
#include "recipe/bench_model.h"
#include "recipe/steps.h"

namespace qad::cli {
namespace {

struct Options {
  recipe::BenchOptions bench;
  ComputeOptions compute;
  std::string masters = "fp32", states = "fp32", gradients = "fp32", logits = "fp32";
  bool plain = false, eager = false, json = false;
  recipe::DecodeBenchOptions decode;
};

Json as_json(const Options& o, const recipe::BenchResult& r) {
  Json times = Json::object();
  for (const recipe::OperatorTime& t : r.times) times[t.name] = t.seconds;
  return {{"machine", r.machine},
          {"model", o.bench.model},
          {"quantized", o.bench.quantize},
          {"seq_len", o.bench.train.seq_len},
          {"batch_sequences", o.bench.train.batch_sequences},
          {"micro_sequences", r.micro_sequences},
          {"packs_inputs", r.packs_inputs},
          {"cuda_graphs", r.cuda_graphs},
          {"recomputed_layers", r.recomputed_layers},
          {"masters", o.masters},
          {"optimizer_states", o.states},
          {"gradients", o.gradients},
          {"logits", o.logits},
          {"tokens_per_second", r.tokens_per_second},
          {"seconds_per_step", r.seconds_per_step},
          {"product_flops", r.product_flops},
          {"roofline", r.roofline()},
          {"peak_bytes", r.peak_bytes},
          {"planned_bytes", r.plan.total()},
          {"seconds_by_operator", times}};
}

void print(const Options& o, const recipe::BenchResult& r) {
  fmt::print("machine     {}, products at {:.1f} TFLOP/s\n", r.machine, r.product_flops * 1e-12);
  fmt::print(
      "model       {}, {} sequences of {} tokens a step, {} a micro-batch{}{}{}\n", o.bench.model,
      o.bench.train.batch_sequences, o.bench.train.seq_len,
      r.micro_sequences == 0 ? o.bench.train.batch_sequences : r.micro_sequences,
      r.packs_inputs ? ", inputs packed" : "", r.cuda_graphs ? ", CUDA graphs" : "",
      r.recomputed_layers == 0 ? "" : fmt::format(", {} layers run again", r.recomputed_layers));
  fmt::print("roofline    {} tokens/s: {:.2f} GFLOP a token\n", human_count(r.roofline()),
             r.flops_per_token * 1e-9);
  fmt::print("speed       {} tokens/s, {:.0f} % of it; {:.1f} ms a step\n",
             human_count(r.tokens_per_second), 100 * r.tokens_per_second / r.roofline(),
             r.seconds_per_step * 1e3);
  if (r.peak_bytes > 0)
    fmt::print("memory      {} at the peak, {} planned\n", human_bytes(r.peak_bytes),
               human_bytes(r.plan.total()));
  double sum = 0;
  for (const recipe::OperatorTime& t : r.times) sum += t.seconds;
  fmt::print("\n{:<34} {:>10} {:>7} {:>7}\n", "operator, of one step", "ms", "calls", "share");
  for (const recipe::OperatorTime& t : r.times)
    if (t.seconds > 0.002 * sum)
      fmt::print("{:<34} {:>10.2f} {:>7} {:>5.1f} %\n", t.name, t.seconds * 1e3, t.calls,
                 100 * t.seconds / sum);
  fmt::print("{:<34} {:>10.2f}\n", "all operators", sum * 1e3);
}

int decode(const Options& o) {
  recipe::DecodeBenchOptions options = o.decode;
  options.model = o.bench.model;
  options.device = o.compute.device;
  options.cuda_graphs = !o.eager;
  const recipe::DecodeBenchResult r = recipe::bench_decode(options);
  if (o.json) {
    fmt::print("{}\n", Json{{"machine", r.machine},
                            {"model", options.model},
                            {"texts", options.texts},
                            {"prompt_tokens", options.prompt_tokens},
                            {"new_tokens", options.new_tokens},
                            {"cuda_graphs", options.device != "cpu" && options.cuda_graphs},
                            {"tokens_per_second", r.tokens_per_second},
                            {"read_seconds", r.read_seconds},
                            {"first_seconds", r.first_seconds},
                            {"seconds", r.seconds}}
                           .dump(2));
    return 0;
  }
  fmt::print("machine     {}\n", r.machine);
  fmt::print("model       {}, {} texts at once, {} tokens read and {} written each\n",
             options.model, options.texts, options.prompt_tokens, options.new_tokens);
  fmt::print("speed       {} new tokens/s; {:.1f} ms reading, {:.1f} ms the first time\n",
             human_count(r.tokens_per_second), 1e3 * r.read_seconds, 1e3 * r.first_seconds);
  return 0;
}

}  // namespace

void add_bench(CLI::App& app) {
  Command command(app, "bench",
                  "speed of distillation (or writing) on random weights and tokens, beside the "
                  "machine's limit");
  auto o = std::make_shared<Options>();
  o->bench.train = {};
  o->decode.texts = 0;
  o->bench.train.steps = 10;
  o->bench.train.learning_rate = 1e-6;
  o->bench.train.seq_len = 1024;
  o->bench.train.batch_sequences = 16;
  command.text(
      "model", o->bench.model,
      fmt::format("a shape ({}) or a checkpoint", fmt::join(recipe::bench_shapes(), ", ")));
  command.number("--steps", o->bench.train.steps, "steps that are timed", std::int64_t{1});
  command.number("--seq-len", o->bench.train.seq_len, "tokens a sequence", std::int64_t{2});
  command.number("--batch-sequences", o->bench.train.batch_sequences, "sequences a step",
                 std::int64_t{1});
  command.number("--micro-sequences", o->bench.train.micro_sequences,
                 "sequences a micro-batch; 0: as many as fit");
  command.choice("--masters", o->masters, {"fp32", "split"}, "FP32, or BF16 and 16 bits more");
  command.choice("--optimizer-states", o->states, {"fp32", "bf16", "int8"}, "AdamW's moments");
  command.choice("--gradients", o->gradients, {"fp32", "bf16"}, "on a GPU");
  command.choice("--logits", o->logits, {"fp32", "bf16"}, "on a GPU");
  command.flag("--no-quantize", o->plain, "without NVFP4, to see what it costs");
  command.flag("--no-cuda-graphs", o->eager, "on a GPU: start every kernel by itself");
  command.flag("--pack-inputs", o->bench.pack,
               "keep inputs packed for the backward pass, also where memory is not short");
  command.number(
      "--recompute-layers", o->bench.recompute_layers,
      "first layers that run again in the backward pass; a GPU short of memory takes more",
      std::int64_t{0});
  command.number("--texts", o->decode.texts,
                 "measure writing instead, of so many texts at once (with --prompt-tokens, "
                 "--new-tokens, --no-cuda-graphs)");
  command.number("--prompt-tokens", o->decode.prompt_tokens, "of each text", std::int64_t{1});
  command.number("--new-tokens", o->decode.new_tokens, "of each text", std::int64_t{1});
  command.flag("--json", o->json, "one JSON object on stdout");
  add_compute_options(command, o->compute);
  command.run([o] {
    apply(o->compute);
    if (o->decode.texts > 0) return decode(*o);
    o->bench.device = o->compute.device;
    o->bench.quantize = !o->plain;
    o->bench.train.split_masters = o->masters == "split";
    o->bench.train.optimizer_states = recipe::state_type_of(o->states);
    o->bench.train.bf16_gradients = o->gradients == "bf16";
    o->bench.train.bf16_logits = o->logits == "bf16";
    check(o->compute.device != "cpu" || (o->gradients == "fp32" && o->logits == "fp32"), "bench",
          "--gradients, --logits: bf16 is for --device cuda");
    o->bench.train.cuda_graphs = !o->eager;
    check(!o->bench.pack || (o->compute.device != "cpu" && !o->plain), "bench",
          "--pack-inputs is for quantised inputs on --device cuda");
    const recipe::BenchResult r = recipe::bench(o->bench);
    if (o->json)
      fmt::print("{}\n", as_json(*o, r).dump(2));
    else
      print(*o, r);
    return 0;
  });
}

}  // namespace qad::cli
