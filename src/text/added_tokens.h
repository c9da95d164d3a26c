// "added_tokens" of tokenizer.json: found in the text before anything else, leftmost and longest
// first.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/json.h"
#include "text/normalizer.h"
#include "text/tokenizer.h"

namespace qad::text {

struct AddedToken {
  TokenId id = -1;
  std::string content;
  bool special = false, normalized = false, lstrip = false, rstrip = false, single_word = false;
};

AddedToken added_token_from(const Json& j, TokenId id);

// A part of a text: an added token's, or (id -1) what lies between two of them.
struct Segment {
  TokenId id;
  std::size_t begin, end;
};

class AddedTokenMatcher {
 public:
  void add(std::string_view pattern, const AddedToken& token);
  // Segments that cover `text`; stripped white space belongs to the token.
  std::vector<Segment> split(std::string_view text) const;

 private:
  const AddedToken* longest_at(std::string_view text, std::size_t at, std::size_t& end) const;

  std::vector<AddedToken> tokens_;
  // A trie: edges by (node, byte), and for each node the token that ends there, or -1.
  std::unordered_map<std::uint64_t, std::uint32_t> edges_;
  std::vector<std::int32_t> ends_{-1};
  bool first_[256] = {};
};

}  // namespace qad::text
