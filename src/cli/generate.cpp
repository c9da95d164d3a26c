// qad generate: continues a text, streaming; or a file of them, many at once.
#include "generate/generate.h"

#include <cstdio>
#include <utility>

#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "recipe/completions.h"
#include "recipe/steps.h"
#include "text/chat_template.h"

namespace qad::cli {
namespace {

struct Options {
  std::string model;
  std::optional<std::string> prompt, prompts, output;
  bool chat = false;
  generate::SamplingOptions sampling;
  std::int64_t samples = 1;
  double cache_gb = 1;
  std::int64_t batch_size = 0;
  bool eager = false;
  ComputeOptions compute;
};

std::vector<text::TokenId> prompt_ids(const Options& o, const text::Tokenizer& tokenizer) {
  const std::string prompt = o.prompt.value_or("");
  if (!o.chat) return tokenizer.encode(prompt);
  check(!tokenizer.chat_template.empty(), "generate",
        "{}: the model has no chat template; leave --chat out", o.model);
  const Json messages = Json::array({{{"role", "user"}, {"content", prompt}}});
  return text::chat_prompt(tokenizer, text::ChatTemplate(tokenizer.chat_template), messages);
}

int stream_one(const Options& o, const recipe::LoadedModel& loaded) {
  const auto prompt = prompt_ids(o, loaded.tokenizer);
  check(!prompt.empty(), "generate",
        "the prompt has no tokens, and the tokenizer adds no BOS; say --prompt TEXT");
  // The prompt comes with the first piece: an error leaves stdout empty.
  std::string before = o.chat ? std::string() : o.prompt.value_or("");
  const auto print = [&](const std::string& text) {
    fmt::print("{}{}", std::exchange(before, {}), text);
    std::fflush(stdout);
  };
  generate::generate_text(loaded.model, loaded.tokenizer, prompt, o.sampling, print);
  print("\n");
  return 0;
}

int write_many(const Options& o, const recipe::LoadedModel& loaded) {
  recipe::CompletionsJob job{*o.prompts, *o.output, o.chat, o.samples, o.sampling, {}};
  job.engine.most_sequences = o.batch_size;
  job.engine.cache_bytes = o.cache_gb * 1e9;
  job.engine.cuda_graphs = !o.eager;
  const recipe::CompletionsResult r = recipe::write_completions(loaded, job);
  if (r.earlier > 0) note("{} completions were there from a run before", r.earlier);
  note("{}: {} completions, {} tokens in {}, {} tokens/s", *o.output, r.completions,
       r.counts.new_tokens, human_time(r.seconds),
       human_count(static_cast<double>(r.counts.new_tokens) / std::max(r.seconds, 1e-9)));
  if (r.interrupted) note("interrupted; the same command goes on from there");
  return r.interrupted ? 130 : 0;
}

}  // namespace

void add_generate(CLI::App& app) {
  Command command(app, "generate", "continue a text, streaming to stdout, or a file of prompts");
  auto o = std::make_shared<Options>();
  command.required("model", o->model, "checkpoint, BF16 or NVFP4");
  command.optional("--prompt", o->prompt, "text to continue; else from BOS");
  command.optional("--prompts", o->prompts,
                   "a file of them: .txt, one a line, or .jsonl with `prompt` or `messages`");
  command.optional("-o,--output", o->output,
                   "JSON lines, one a completion of --prompts; what is there is not made again");
  command.flag("--chat", o->chat, "a prompt is a user's message, rendered by the chat template");
  add_sampling_options(command, o->sampling);
  command.number("--samples", o->samples, "of each of --prompts", std::int64_t{1});
  command.flag("--no-cuda-graphs", o->eager, "on a GPU: start every kernel by itself");
  command.number("--batch-size", o->batch_size,
                 "texts of --prompts that are written at once; 0: 64 on a CPU, 256 on a GPU",
                 std::int64_t{0});
  command.number("--cache-gb", o->cache_gb, "memory for keys and values of --prompts");
  command.exclude("--prompt", "--prompts");
  add_compute_options(command, o->compute);
  command.run([o] {
    check(o->prompts.has_value() == o->output.has_value(), "generate",
          "--prompts and -o belong together; found only {}", o->prompts ? "--prompts" : "-o");
    const Options usual;
    check(o->prompts || (o->samples == usual.samples && o->batch_size == usual.batch_size &&
                         o->cache_gb == usual.cache_gb),
          "generate", "--samples, --batch-size and --cache-gb are for --prompts");
    apply(o->compute);
    const recipe::LoadedModel loaded =
        recipe::load_model(o->model, models::decoding_placement_of(o->compute.device));
    return o->prompts ? write_many(*o, loaded) : stream_one(*o, loaded);
  });
}

}  // namespace qad::cli
