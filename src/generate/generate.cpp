// The decoding loop and the text stream.
#include "generate/generate.h"

#include <algorithm>

#include "core/error.h"
#include "generate/streamed_text.h"

namespace qad::generate {

std::vector<text::TokenId> generate(const models::Model& model,
                                    const std::vector<text::TokenId>& prompt,
                                    const SamplingOptions& o,
                                    const std::function<bool(text::TokenId)>& each) {
  check(!prompt.empty(), "generate", "expected a prompt of at least one token");
  check(o.stop.empty(), "generate", "stop: stop strings need text; call generate_text");
  validate(o, model.config.vocabulary);
  std::vector<std::int64_t> ends = model.config.eos;
  ends.insert(ends.end(), o.stop_tokens.begin(), o.stop_tokens.end());
  const at::NoGradGuard no_grad;
  models::KvCache cache;
  std::vector<text::TokenId> seen = prompt;
  const auto made = [&] { return static_cast<std::int64_t>(seen.size() - prompt.size()); };
  std::vector<text::TokenId> ids = prompt;
  while (made() < o.max_tokens) {
    const at::Tensor hidden = models::forward_cached(model, ids, cache);
    const at::Tensor last = hidden.narrow(0, hidden.size(0) - 1, 1);
    const at::Tensor row = models::logits(model, last).to(at::kCPU, at::kFloat).contiguous();
    const std::span logits(row.const_data_ptr<float>(), static_cast<std::size_t>(row.numel()));
    const text::TokenId id = sample(logits, o, seen, made());
    if (std::find(ends.begin(), ends.end(), id) != ends.end()) break;
    seen.push_back(id);
    if (each && !each(id)) break;
    ids = {id};
  }
  return {seen.begin() + static_cast<std::ptrdiff_t>(prompt.size()), seen.end()};
}

void generate_text(const models::Model& model, const text::Tokenizer& tokenizer,
                   const std::vector<text::TokenId>& prompt, const SamplingOptions& options,
                   const std::function<void(const std::string&)>& each) {
  StreamedText text(tokenizer, prompt, options.stop);
  const auto give = [&](const std::string& piece) {
    if (!piece.empty()) each(piece);
  };
  SamplingOptions of_ids = options;
  of_ids.stop.clear();
  generate(model, prompt, of_ids, [&](text::TokenId id) {
    give(text.add(id));
    return !text.stopped();
  });
  give(text.end());
}

TextStream::TextStream(text::Tokenizer tokenizer, std::vector<text::TokenId> context)
    : tokenizer_(std::move(tokenizer)), ids_(std::move(context)), given_(ids_.size()) {
  // A few tokens settle how the next one is joined; decoding the whole prompt again for each token
  // would make streaming quadratic.
  constexpr std::size_t kContext = 8;
  begin_ = given_ > kContext ? given_ - kContext : 0;
}

std::string TextStream::decode(std::size_t begin) const {
  return tokenizer_.decode(std::span(ids_).subspan(begin));
}

std::string TextStream::next(text::TokenId id) {
  ids_.push_back(id);
  const std::string whole = decode(begin_);
  // U+FFFD at the end: the bytes of a character are still coming. Four tokens are the most that one
  // character takes; after that the bytes really are invalid.
  if (whole.ends_with("\xEF\xBF\xBD") && ids_.size() - given_ < 4) return {};
  const std::string before = tokenizer_.decode(std::span(ids_).subspan(begin_, given_ - begin_));
  begin_ = given_;
  given_ = ids_.size();
  return whole.size() > before.size() ? whole.substr(before.size()) : std::string();
}

std::string TextStream::rest() {
  const std::string whole = decode(begin_);
  const std::string before = tokenizer_.decode(std::span(ids_).subspan(begin_, given_ - begin_));
  given_ = ids_.size();
  return whole.size() > before.size() ? whole.substr(before.size()) : std::string();
}

}  // namespace qad::generate
