// Tokenizers as published models ship them, equal to Hugging Face's `tokenizers` library:
// byte-level BPE and SentencePiece-BPE with byte fallback from tokenizer.json, vocab.json +
// merges.txt, llama2.c's vocabulary, and a GGUF's embedded one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace qad::text {

using TokenId = std::int32_t;

class Tokenizer {
 public:
  // Ids of UTF-8 `text` (invalid bytes become U+FFFD, as the peer's binding does). With
  // special_tokens the post-processor's additions (BOS, ...) are made; added tokens inside the text
  // are always recognised.
  std::vector<TokenId> encode(std::string_view text, bool special_tokens = true) const;
  // Text of `ids`; skip_special leaves out tokens marked special. Unknown ids throw Error.
  std::string decode(std::span<const TokenId> ids, bool skip_special = true) const;

  std::int64_t vocab_size() const;  // number of ids, added tokens included
  std::optional<TokenId> id_of(std::string_view token) const;
  std::string_view token_of(TokenId id) const;
  // What `id` adds to a text, which may be part of a character; an added token's is its content.
  std::string bytes_of(TokenId id) const;

  // Named by tokenizer_config.json, generation config or the vocabulary's own metadata, where
  // known.
  std::optional<TokenId> bos, eos;
  std::string chat_template;  // Jinja source; empty when the model has none
  Json special_tokens;        // variables for the template: bos_token, eos_token, ... as strings

  // Same ids for the same texts: what teacher and student must share. A hash of vocabulary and
  // merges.
  std::uint64_t fingerprint() const;

  struct Impl;
  std::shared_ptr<const Impl> impl;
};

// The tokenizer of a Hugging Face folder: tokenizer.json (or vocab.json + merges.txt),
// tokenizer_config.json, chat_template.jinja. Throws Error naming the part that is unknown.
Tokenizer load_tokenizer(const fs::path& folder);
Tokenizer tokenizer_from_json(const Json& tokenizer_json, const Json& tokenizer_config);
Tokenizer tokenizer_from_vocab_merges(std::string_view vocab_json, std::string_view merges,
                                      const Json& tokenizer_config);

// llama2.c's tokenizer.bin and a GGUF's tokenizer.ggml.* metadata become the same tokenizer.json
// another program can load (checkpoint writes it into converted folders). Scores order the merges
// of SentencePiece-BPE.
struct Vocabulary {
  std::string model;  // "llama" (SentencePiece-BPE) or "gpt2" (byte-level BPE)
  std::string pre;    // GGUF's tokenizer.ggml.pre: which split pattern
  std::vector<std::string> tokens;
  std::vector<float> scores;        // SentencePiece only
  std::vector<std::int32_t> types;  // GGUF token types; empty: by llama2.c's convention
  std::vector<std::string> merges;  // byte-level only, "a b"
  std::optional<TokenId> bos, eos, unk, pad;
  bool add_bos = false, add_eos = false, add_space_prefix = true;
  std::string chat_template;
};
struct TokenizerFiles {
  Json tokenizer_json, tokenizer_config;
};
TokenizerFiles tokenizer_files(const Vocabulary& v);
Vocabulary read_llama2c_vocabulary(const fs::path& tokenizer_bin);

}  // namespace qad::text
