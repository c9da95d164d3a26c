// What every command that writes text takes.
#include "cli/commands.h"
#include "generate/generate.h"

namespace qad::cli {

void add_sampling_options(Command& command, generate::SamplingOptions& o) {
  command.number("--max-tokens", o.max_tokens, "new tokens at most");
  command.number("--temperature", o.temperature, "0: greedy");
  command.number("--top-k", o.top_k, "likeliest tokens to sample from; 0: all");
  command.number("--top-p", o.top_p, "share of the probability to sample from", 0., 1.);
  command.number("--min-p", o.min_p,
                 "least probability to sample from, as a share of the largest; 0: any", 0., 1.);
  command.number("--repetition-penalty", o.repetition_penalty,
                 "divides positive and multiplies negative logits of tokens seen; 1: off");
  command.number("--seed", o.seed, "of the samples");
  command.repeated("--stop", o.stop, "text to end before; may be given again");
}

}  // namespace qad::cli
