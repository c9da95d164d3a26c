// Byte pair encoding of one pre-tokenised piece: characters (or bytes) become ids, and the adjacent
// pair with the lowest rank merges until none is left. Equal to `tokenizers`' BPE model without
// dropout.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "text/tokenizer_spec.h"

namespace qad::text {

// GPT-2's alphabet: each byte as a printable character, and back (-1 for characters outside of it).
const std::array<std::string, 256>& byte_characters();
int byte_of_character(char32_t c);

// Ids of strings. The strings belong to the caller and must outlive the index.
class StringIndex {
 public:
  void reserve(std::size_t entries);
  void insert(std::string_view key, TokenId id);  // the last id of a key counts
  TokenId find(std::string_view key) const;       // -1 when absent

 private:
  struct Slot {
    std::string_view key;
    std::uint32_t hash = 0;
    TokenId id = -1;
  };
  std::vector<Slot> slots_;
  std::size_t entries_ = 0;
};

class Bpe {
 public:
  // With byte_level, pieces are raw bytes that stand for their characters in GPT-2's alphabet.
  Bpe(const TokenizerSpec& spec, bool byte_level);
  Bpe(const Bpe&) = delete;
  Bpe& operator=(const Bpe&) = delete;

  void encode(std::string_view piece, std::vector<TokenId>& out) const;
  TokenId find(std::string_view token) const { return names_.find(token); }
  const std::vector<std::string>& tokens() const { return tokens_; }  // by id; gaps are empty
  bool has(TokenId id) const;

 private:
  struct Merge {
    std::uint64_t pair = ~std::uint64_t{0};
    std::uint32_t rank = 0;
    TokenId id = -1;
  };
  const Merge* merge_of(TokenId left, TokenId right) const;
  void add_merges(const TokenizerSpec& spec);
  void encode_uncached(std::string_view piece, std::vector<TokenId>& ids) const;
  void start(std::string_view piece, std::vector<TokenId>& ids) const;
  void merge_short(std::vector<TokenId>& ids) const;
  void merge_long(std::vector<TokenId>& ids) const;

  std::vector<std::string> tokens_;
  std::vector<bool> present_;
  std::vector<std::string> raw_;  // tokens as bytes, for byte_level
  StringIndex names_, pieces_;    // pieces_: what a whole piece is looked up in
  std::vector<Merge> merges_;     // open addressing, a power of two
  std::array<TokenId, 256> byte_ids_{}, fallback_{};
  TokenId unk_ = -1;
  bool byte_level_ = false, byte_fallback_ = false, fuse_unk_ = false, ignore_merges_ = false;
  std::uint32_t serial_ = 0;  // tells this model's entries in the thread's word cache
};

}  // namespace qad::text
