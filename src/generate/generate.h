// Text from a model, one token at a time: sampling over a key-value cache, and text that streams
// without cutting a UTF-8 sequence.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "models/model.h"
#include "text/tokenizer.h"

namespace qad::generate {

struct SamplingOptions {
  std::int64_t max_tokens = 256;
  double temperature = 0;  // 0: the likeliest token (greedy)
  double top_p = 1;        // sample from the fewest tokens whose probabilities reach top_p
  std::int64_t top_k = 0;  // and from no more than this many; 0: all
  std::uint64_t seed = 0;
};

// The next token from logits [V]; draw `step` of options.seed, so a text can be made again. The
// first of equal logits wins.
text::TokenId sample(const at::Tensor& logits, const SamplingOptions& options, std::int64_t step);

// Continues `prompt` (not empty). Ends before an id of the model's eos list, after max_tokens, or
// when `each`, called with each new id, returns false. Returns the new ids, without eos.
std::vector<text::TokenId> generate(const models::Model& model,
                                    const std::vector<text::TokenId>& prompt,
                                    const SamplingOptions& options,
                                    const std::function<bool(text::TokenId)>& each = {});

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
