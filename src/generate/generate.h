// Text from a model, one token at a time: sampling over a key-value cache, and text that streams
// without cutting a UTF-8 sequence.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "models/model.h"
#include "text/tokenizer.h"

namespace qad::generate {

// Applied in the order of Transformers' LogitsProcessorList
// (GenerationMixin._get_logits_processor): repetition_penalty, temperature, top_k, top_p over what
// top_k left, min_p.
struct SamplingOptions {
  std::int64_t max_tokens = 256;
  // Of each token in prompt or output, once: a positive logit is divided by it, a negative one
  // multiplied (arXiv:1909.05858 as in Transformers). 1: off.
  double repetition_penalty = 1;
  double temperature = 0;  // divides the logits; 0: the likeliest token (greedy), cuts do nothing
  std::int64_t top_k = 0;  // from the likeliest top_k tokens, of equals those of lower id; 0: all
  double top_p = 1;        // from the fewest of those whose share of their probability is top_p
  double min_p = 0;        // from tokens of at least min_p times the largest probability
  std::uint64_t seed = 0;
  std::vector<text::TokenId> stop_tokens = {};  // end the text as the model's eos do
  std::vector<std::string> stop = {};           // end the text before them; see StopStrings
};

// Error that names the first option outside its limits. `vocabulary`: ids of stop_tokens are below.
void validate(const SamplingOptions& options, std::int64_t vocabulary);

// What files of texts keep of them.
Json to_json(const SamplingOptions& options);

// The seed of sample `sample` of text `index` in a run with `seed`: the same whatever else is
// written, and for every model that is compared.
std::uint64_t sample_seed(std::uint64_t seed, std::int64_t index, std::int64_t sample);

// The next token from logits [V], which must be finite (else Error). `seen`: the ids of prompt and
// output so far, below V. The same arguments give the same token: it is draw `step` of options.seed
// and nothing else. `options` are valid. Of equal likeliest tokens greedy takes the first.
text::TokenId sample(std::span<const float> logits, const SamplingOptions& options,
                     std::span<const text::TokenId> seen, std::int64_t step);

struct TokenLogProb {
  text::TokenId id;
  double log_prob;  // natural logarithm, to 1e-6
};
struct LogProbs {
  TokenLogProb chosen;
  std::vector<TokenLogProb> likeliest;  // [n], descending, of equals the lower id first
};
// log softmax of logits [V] as the model gave them: temperature 1, no penalty, nothing cut (what
// OpenAI's API calls logprobs). Error for logits that are not finite, or chosen or n outside V.
LogProbs log_probs(std::span<const float> logits, text::TokenId chosen, std::int64_t n);

// Continues `prompt` (not empty). Ends before an id of the model's eos list or of stop_tokens,
// after max_tokens, or when `each`, called with each new id, returns false. Returns the new ids,
// without the one that ended them. Ids have no stop strings: options.stop is an Error.
std::vector<text::TokenId> generate(const models::Model& model,
                                    const std::vector<text::TokenId>& prompt,
                                    const SamplingOptions& options,
                                    const std::function<bool(text::TokenId)>& each = {});

// The same as text, with stop strings. `each` gets the text piece by piece, none of them empty.
void generate_text(const models::Model& model, const text::Tokenizer& tokenizer,
                   const std::vector<text::TokenId>& prompt, const SamplingOptions& options,
                   const std::function<void(const std::string&)>& each);

// Decodes ids as they come. A token may end in the middle of a character, and a decoder may strip
// or join at the beginning, so what is given is what complete decodes differ by.
class TextStream {
 public:
  // `context` is what precedes (the prompt): it is not given out, but decides about spaces.
  TextStream(text::Tokenizer tokenizer, std::vector<text::TokenId> context);
  // The text that `id` completes; empty while a character is unfinished.
  std::string next(text::TokenId id);
  // What is left at the end: an unfinished character becomes U+FFFD.
  std::string rest();

 private:
  std::string decode(std::size_t begin) const;

  text::Tokenizer tokenizer_;
  std::vector<text::TokenId> ids_;
  std::size_t begin_ = 0;  // decoding starts here,
  std::size_t given_ = 0;  // and ids before this one have been given out
};

}  // namespace qad::generate
