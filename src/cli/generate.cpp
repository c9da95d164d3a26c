// qad generate: continues a text, streaming.
#include "generate/generate.h"

#include <cstdio>
#include <utility>

#include "cli/commands.h"
#include "core/error.h"
#include "recipe/steps.h"
#include "text/chat_template.h"

namespace qad::cli {
namespace {

struct Options {
  std::string model, prompt;
  bool chat = false;
  generate::SamplingOptions sampling;
  ComputeOptions compute;
};

std::vector<text::TokenId> prompt_ids(const Options& o, const text::Tokenizer& tokenizer) {
  if (!o.chat) return tokenizer.encode(o.prompt);
  check(!tokenizer.chat_template.empty(), "generate",
        "{}: the model has no chat template; leave --chat out", o.model);
  const Json messages = Json::array({{{"role", "user"}, {"content", o.prompt}}});
  const text::ChatTemplate chat(tokenizer.chat_template);
  return tokenizer.encode(chat.render(text::chat_variables(tokenizer, messages, Json(), true)).text,
                          false);
}

}  // namespace

void add_generate(CLI::App& app) {
  Command command(app, "generate", "continue a text, streaming to stdout");
  auto o = std::make_shared<Options>();
  command.required("model", o->model, "checkpoint, BF16 or NVFP4");
  command.text("--prompt", o->prompt, "text to continue; empty: from BOS");
  command.flag("--chat", o->chat, "the prompt is a user's message, rendered by the chat template");
  command.number("--max-tokens", o->sampling.max_tokens, "new tokens at most");
  command.number("--temperature", o->sampling.temperature, "0: greedy");
  command.number("--top-k", o->sampling.top_k, "likeliest tokens to sample from; 0: all");
  command.number("--top-p", o->sampling.top_p, "share of the probability to sample from", 0., 1.);
  command.number("--min-p", o->sampling.min_p,
                 "least probability to sample from, as a share of the largest; 0: any", 0., 1.);
  command.number("--repetition-penalty", o->sampling.repetition_penalty,
                 "divides positive and multiplies negative logits of tokens seen; 1: off");
  command.number("--seed", o->sampling.seed, "of the samples");
  command.repeated("--stop", o->sampling.stop, "text to end before; may be repeated");
  add_compute_options(command, o->compute);
  command.run([o] {
    apply(o->compute);
    const models::Placement placement = models::placement_of(o->compute.device);
    const recipe::LoadedModel loaded = recipe::load_model(o->model, placement);
    const auto prompt = prompt_ids(*o, loaded.tokenizer);
    check(!prompt.empty(), "generate",
          "the prompt has no tokens, and the tokenizer adds no BOS; say --prompt TEXT");
    // The prompt comes with the first piece: an error leaves stdout empty.
    std::string before = o->chat ? std::string() : o->prompt;
    const auto print = [&](const std::string& text) {
      fmt::print("{}{}", std::exchange(before, {}), text);
      std::fflush(stdout);
    };
    generate::generate_text(loaded.model, loaded.tokenizer, prompt, o->sampling, print);
    print("\n");
    return 0;
  });
}

}  // namespace qad::cli
