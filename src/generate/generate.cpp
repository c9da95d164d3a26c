// The decoding loop and the text stream.
#include "generate/generate.h"

#include <algorithm>

#include "core/error.h"

namespace qad::generate {

std::vector<text::TokenId> generate(const models::Model& model,
                                    const std::vector<text::TokenId>& prompt,
                                    const SamplingOptions& o,
                                    const std::function<bool(text::TokenId)>& each) {
  check(!prompt.empty(), "generate", "expected a prompt of at least one token");
  check(o.temperature >= 0 && o.top_p > 0 && o.top_p <= 1 && o.top_k >= 0 && o.max_tokens >= 0,
        "generate",
        "expected temperature >= 0, 0 < top_p <= 1, top_k >= 0 and max_tokens >= 0, found {}, {}, "
        "{} and {}",
        o.temperature, o.top_p, o.top_k, o.max_tokens);
  const at::NoGradGuard no_grad;
  models::KvCache cache;
  std::vector<text::TokenId> out;
  std::vector<text::TokenId> ids = prompt;
  while (static_cast<std::int64_t>(out.size()) < o.max_tokens) {
    const at::Tensor hidden = models::forward_cached(model, ids, cache);
    const at::Tensor last = hidden.narrow(0, hidden.size(0) - 1, 1);
    const text::TokenId id =
        sample(models::logits(model, last), o, static_cast<std::int64_t>(out.size()));
    const auto& eos = model.config.eos;
    if (std::find(eos.begin(), eos.end(), id) != eos.end()) break;
    out.push_back(id);
    if (each && !each(id)) break;
    ids = {id};
  }
  return out;
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
