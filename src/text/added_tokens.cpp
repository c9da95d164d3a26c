// The order of checks is the library's: a match refused by single_word is still consumed, and white
// space taken by rstrip may hold the next token.
#include "text/added_tokens.h"

#include <algorithm>

#include "core/error.h"
#include "text/tokenizer_spec.h"
#include "text/tokenizer_utf8.h"

namespace qad::text {
namespace {

std::size_t character_before(std::string_view s, std::size_t i) {
  do --i;
  while ((static_cast<unsigned char>(s[i]) & 0xC0) == 0x80);
  return i;
}

}  // namespace

AddedToken added_token_from(const Json& j, TokenId id) {
  AddedToken token;
  token.id = id;
  token.content = string_at(j, "content", "added_tokens");
  token.special = bool_at(j, "special", false);
  token.normalized = bool_at(j, "normalized", !token.special);
  token.lstrip = bool_at(j, "lstrip", false);
  token.rstrip = bool_at(j, "rstrip", false);
  token.single_word = bool_at(j, "single_word", false);
  return token;
}

void AddedTokenMatcher::add(std::string_view pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  first_[static_cast<unsigned char>(pattern[0])] = true;
  std::uint32_t node = 0;
  for (const char c : pattern) {
    const auto key = std::uint64_t{node} << 8 | static_cast<unsigned char>(c);
    const auto [edge, is_new] = edges_.try_emplace(key, std::uint32_t(ends_.size()));
    if (is_new) ends_.push_back(-1);
    node = edge->second;
  }
  ends_[node] = static_cast<std::int32_t>(tokens_.size());
  tokens_.push_back(token);
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, std::size_t at,
                                                std::size_t& end) const {
  const AddedToken* found = nullptr;
  std::uint32_t node = 0;
  for (std::size_t i = at; i < text.size(); ++i) {
    const auto edge = edges_.find(std::uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (ends_[node] < 0) continue;
    found = &tokens_[static_cast<std::size_t>(ends_[node])];
    end = i + 1;
  }
  return found;
}

std::vector<Segment> AddedTokenMatcher::split(std::string_view text) const {
  std::vector<Segment> segments;
  std::size_t covered = 0;
  for (std::size_t at = 0, end = 0; at < text.size() && !tokens_.empty();) {
    const AddedToken* token = nullptr;
    if (first_[static_cast<unsigned char>(text[at])]) token = longest_at(text, at, end);
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at, stop = end;
    at = end;
    if (token->single_word) {
      const bool word_before =
          begin > 0 && is_word(decode_utf8(text, character_before(text, begin)));
      const bool word_after = stop < text.size() && is_word(decode_utf8(text, stop));
      if (word_before || word_after) continue;
    }
    if (token->lstrip) {
      while (begin > covered && is_white_space(decode_utf8(text, character_before(text, begin))))
        begin = character_before(text, begin);
      begin = std::max(begin, covered);
    }
    if (token->rstrip)
      while (stop < text.size() && is_white_space(decode_utf8(text, stop)))
        stop += utf8_size(static_cast<unsigned char>(text[stop]));
    if (covered < begin) segments.push_back({-1, covered, begin});
    segments.push_back({token->id, begin, stop});
    covered = stop;
  }
  if (covered < text.size()) segments.push_back({-1, covered, text.size()});
  return segments;
}

}  // namespace qad::text
