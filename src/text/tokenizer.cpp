// The way of a text: added tokens on the raw text, normaliser, added tokens on the normalised text,
// pre-tokenizer, BPE, post-processor; the same order as in the `tokenizers` library. Truncation and
// padding that a file asks for are left out: they belong to a training run, not to a vocabulary.
#include "text/tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_decoder.h"
#include "text/tokenizer_spec.h"
#include "text/tokenizer_utf8.h"

namespace qad::text {
namespace {

const Json kNull;

const Json& part(const Json& object, const char* key) {
  return object.is_object() && object.contains(key) ? object[key] : kNull;
}

std::uint64_t fnv1a(std::uint64_t hash, std::string_view s) {
  for (const char c : s) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return (hash ^ 0xFF) *
         0x100000001B3u;  // 0xFF never occurs in UTF-8: "ab","c" differs from "a","bc"
}

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(const TokenizerSpec& spec)
      : normalizer(make_normalizer(part(spec.rest, "normalizer"))),
        pre_tokenizer(part(spec.rest, "pre_tokenizer")),
        bpe(spec, pre_tokenizer.byte_level()),
        decoder(make_decoder(part(spec.rest, "decoder"))) {
    add_tokens(part(spec.rest, "added_tokens"));
    count = std::count(known.begin(), known.end(), true);
    add_post_processor(part(spec.rest, "post_processor"));
    hash_vocabulary(spec);
  }

  TokenId find(const std::string& token) const {
    const auto added = std::find_if(added_tokens.begin(), added_tokens.end(),
                                    [&](const AddedToken& t) { return t.content == token; });
    return added != added_tokens.end() ? added->id : bpe.find(token);
  }

  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  Decoder decoder;
  std::vector<AddedToken> added_tokens;
  AddedTokenMatcher raw, normalized;
  std::vector<std::string> tokens;  // by id, added ones included
  std::vector<char> known, special;
  std::vector<TokenId> prefix, suffix;  // what the post-processor adds
  std::int64_t count = 0;
  std::uint64_t fingerprint = 0;

 private:
  void add_tokens(const Json& list) {
    tokens = bpe.tokens();
    known.resize(tokens.size());
    for (std::size_t id = 0; id < tokens.size(); ++id) known[id] = bpe.has(TokenId(id));
    special.resize(tokens.size());
    for (const Json& j : list) {
      const std::size_t id = natural(part(j, "id"), "added_tokens: id");
      check(id < tokens.size() + 65536, "tokenizer",
            "added token {}: id {} is far beyond {} tokens", j.dump(), id, tokens.size());
      const AddedToken token = added_token_from(j, TokenId(id));
      if (token.content.empty()) continue;
      const TokenId in_model = bpe.find(token.content);
      check(in_model < 0 || in_model == token.id, "tokenizer",
            "added token \"{}\": id {} here, {} in the vocabulary", token.content, id, in_model);
      if (id >= tokens.size()) {
        tokens.resize(id + 1);
        known.resize(id + 1);
        special.resize(id + 1);
      }
      check(!known[id] || tokens[id] == token.content, "tokenizer",
            "added token \"{}\": id {} belongs to \"{}\"", token.content, id, tokens[id]);
      tokens[id] = token.content;
      known[id] = true;
      special[id] = token.special;
      std::string pattern = token.content;
      if (token.normalized && normalizer) normalizer(pattern);
      (token.normalized ? normalized : raw).add(pattern, token);
      added_tokens.push_back(token);
    }
  }

  void add_post_processor(const Json& j) {
    if (j.is_null()) return;
    const std::string type = type_of(j);
    if (type == "ByteLevel") return;  // moves offsets, not ids
    if (type == "Sequence") {
      for (const Json& step : part(j, "processors")) add_post_processor(step);
      return;
    }
    check(type == "TemplateProcessing", "tokenizer",
          "post_processor \"{}\" is not supported (known: ByteLevel, TemplateProcessing, Sequence)",
          type);
    std::vector<TokenId> before, after;
    bool seen = false;
    for (const Json& item : part(j, "single")) {
      if (item.contains("Sequence")) {
        check(!seen, "tokenizer", "post_processor: a template that repeats the text");
        seen = true;
        continue;
      }
      const std::string name = string_at(part(item, "SpecialToken"), "id", "TemplateProcessing");
      const Json& ids = part(part(part(j, "special_tokens"), name.c_str()), "ids");
      check(ids.is_array() && !ids.empty(), "tokenizer",
            "post_processor: special token \"{}\" has no ids", name);
      for (const Json& id : ids) {
        const std::size_t value = natural(id, "post_processor: ids");
        check(value < known.size() && known[value], "tokenizer",
              "post_processor: special token \"{}\" has unknown id {}", name, value);
        (seen ? after : before).push_back(TokenId(value));
      }
    }
    check(seen, "tokenizer", "post_processor: a template without the text");
    prefix.insert(prefix.begin(), before.begin(), before.end());
    suffix.insert(suffix.end(), after.begin(), after.end());
  }

  void hash_vocabulary(const TokenizerSpec& spec) {
    fingerprint = 0xCBF29CE484222325u;
    for (const std::string& token : tokens) fingerprint = fnv1a(fingerprint, token);
    for (const auto& [left, right] : spec.merges)
      fingerprint = fnv1a(fnv1a(fingerprint, left), right);
  }
};

Tokenizer tokenizer_from_spec(const TokenizerSpec& spec) {
  Tokenizer tokenizer;
  tokenizer.impl = std::make_shared<const Tokenizer::Impl>(spec);
  return tokenizer;
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool special_tokens) const {
  std::string repaired;
  if (!valid_utf8(text)) text = repaired = lossy_utf8(text);
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 3 + 8);
  if (special_tokens) ids = impl->prefix;
  for (const Segment& raw : impl->raw.split(text)) {
    if (raw.id >= 0) {
      ids.push_back(raw.id);
      continue;
    }
    std::string_view part = text.substr(raw.begin, raw.end - raw.begin);
    std::string changed;
    if (impl->normalizer) {
      changed = part;
      impl->normalizer(changed);
      part = changed;
    }
    for (const Segment& segment : impl->normalized.split(part)) {
      if (segment.id >= 0) {
        ids.push_back(segment.id);
        continue;
      }
      PieceStorage storage;
      const Piece whole{part.substr(segment.begin, segment.end - segment.begin),
                        raw.begin == 0 && segment.begin == 0};
      for (const Piece& piece : impl->pre_tokenizer.cut(whole, storage))
        impl->bpe.encode(piece.text, ids);
    }
  }
  if (special_tokens) ids.insert(ids.end(), impl->suffix.begin(), impl->suffix.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const TokenId id : ids) {
    const std::string_view token = token_of(id);
    if (!skip_special || !impl->special[std::size_t(id)]) tokens.emplace_back(token);
  }
  impl->decoder(tokens);
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

std::int64_t Tokenizer::vocab_size() const {
  return impl->count;
}

std::optional<TokenId> Tokenizer::id_of(std::string_view token) const {
  const TokenId id = impl->find(std::string(token));
  return id < 0 ? std::nullopt : std::optional(id);
}

std::string_view Tokenizer::token_of(TokenId id) const {
  check(id >= 0 && std::size_t(id) < impl->known.size() && impl->known[std::size_t(id)],
        "tokenizer", "id {} is not in the vocabulary of {} tokens", id, vocab_size());
  return impl->tokens[std::size_t(id)];
}

std::string Tokenizer::bytes_of(TokenId id) const {
  const std::string_view token = token_of(id);
  const bool added = std::any_of(impl->added_tokens.begin(), impl->added_tokens.end(),
                                 [&](const AddedToken& t) { return t.id == id; });
  return added ? std::string(token) : token_bytes(token, impl->pre_tokenizer.byte_level());
}

std::uint64_t Tokenizer::fingerprint() const {
  return impl->fingerprint;
}

}  // namespace qad::text
