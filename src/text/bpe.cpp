// Two merge loops: a scan over a short word's ranks, which fits in registers and cache, and a heap
// for texts that no pre-tokenizer cuts. Words met before come from a small direct-mapped cache of
// the thread.
#include "text/bpe.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <queue>

#include "core/error.h"
#include "text/tokenizer_utf8.h"

namespace qad::text {
namespace {

constexpr std::size_t kShortWord = 48;

std::uint64_t mix(std::uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  return x ^ (x >> 32);
}

std::uint64_t hash_of(std::string_view s) {
  std::uint64_t h = s.size();
  for (; s.size() >= 8; s.remove_prefix(8)) {
    std::uint64_t word;
    std::memcpy(&word, s.data(), 8);
    h = mix(h ^ word);
  }
  std::uint64_t rest = 0;
  std::memcpy(&rest, s.data(), s.size());
  return mix(h ^ mix(rest + 1));
}

std::uint64_t pair_key(TokenId left, TokenId right) {
  return std::uint64_t(std::uint32_t(left)) << 32 | std::uint32_t(right);
}

// One cache line a word; longer words and those of more tokens are not kept.
struct CachedWord {
  static constexpr std::size_t kMaxBytes = 26, kMaxIds = 8;
  std::uint32_t serial = 0;
  std::uint8_t bytes = 0, count = 0;
  char text[kMaxBytes];
  TokenId ids[kMaxIds];
};
constexpr std::size_t kCacheEntries = 1 << 14;

}  // namespace

const std::array<std::string, 256>& byte_characters() {
  static const auto table = [] {
    std::array<std::string, 256> characters;
    char32_t next = 256;
    for (unsigned b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      append_utf8(characters[b], printable ? b : next++);
    }
    return characters;
  }();
  return table;
}

int byte_of_character(char32_t c) {
  static const auto table = [] {
    std::array<int, 324> bytes;
    bytes.fill(-1);
    for (int b = 0; b < 256; ++b) bytes[decode_utf8(byte_characters()[b], 0)] = b;
    return bytes;
  }();
  return c < table.size() ? table[c] : -1;
}

void StringIndex::reserve(std::size_t entries) {
  std::size_t size = 16;
  while (size < entries * 2) size *= 2;
  if (size <= slots_.size()) return;
  std::vector<Slot> old(size);
  old.swap(slots_);
  entries_ = 0;
  for (const Slot& slot : old)
    if (slot.id >= 0) insert(slot.key, slot.id);
}

void StringIndex::insert(std::string_view key, TokenId id) {
  if ((entries_ + 1) * 2 > slots_.size()) reserve(entries_ * 2 + 16);
  const std::uint64_t hash = hash_of(key);
  for (std::size_t i = hash;; ++i) {
    Slot& slot = slots_[i & (slots_.size() - 1)];
    if (slot.id < 0) {
      slot = {key, std::uint32_t(hash >> 32), id};
      ++entries_;
      return;
    }
    if (slot.key == key) {
      slot.id = id;
      return;
    }
  }
}

TokenId StringIndex::find(std::string_view key) const {
  if (slots_.empty()) return -1;
  const std::uint64_t hash = hash_of(key);
  for (std::size_t i = hash;; ++i) {
    const Slot& slot = slots_[i & (slots_.size() - 1)];
    if (slot.id < 0) return -1;
    if (slot.hash == std::uint32_t(hash >> 32) && slot.key == key) return slot.id;
  }
}

Bpe::Bpe(const TokenizerSpec& spec, bool byte_level) : byte_level_(byte_level) {
  static std::atomic<std::uint32_t> serials{0};
  serial_ = ++serials;
  check(spec.rest.is_object(), "tokenizer", "tokenizer.json: expected an object");
  const Json model = spec.rest.value("model", Json());
  const std::string type = type_of(model);  // files older than 2020 leave it out
  check(model.is_object() && (type == "BPE" || type.empty()), "tokenizer",
        "model type \"{}\": only BPE is supported", type);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json affix = model.value(key, Json());
    check(affix.is_null() || affix == "", "tokenizer", "model.{} = {}: not supported", key,
          affix.dump());
  }
  check(!model.contains("dropout") || model["dropout"].is_null() || model["dropout"] == 0.0,
        "tokenizer", "model.dropout: not supported, expected null");
  byte_fallback_ = bool_at(model, "byte_fallback", false);
  fuse_unk_ = bool_at(model, "fuse_unk", false);
  ignore_merges_ = bool_at(model, "ignore_merges", false);

  TokenId last = -1;
  for (const auto& [token, id] : spec.vocab) last = std::max(last, id);
  check(!spec.vocab.empty() && std::size_t(last) < spec.vocab.size() * 16 + 4096, "tokenizer",
        "model.vocab: {} tokens, the highest id is {}", spec.vocab.size(), last);
  tokens_.resize(std::size_t(last) + 1);
  present_.resize(tokens_.size());
  for (const auto& [token, id] : spec.vocab) {
    check(!present_[std::size_t(id)], "tokenizer", "model.vocab: \"{}\" and \"{}\" share id {}",
          tokens_[std::size_t(id)], token, id);
    tokens_[std::size_t(id)] = token;
    present_[std::size_t(id)] = true;
  }
  names_.reserve(spec.vocab.size());
  for (std::size_t id = 0; id < tokens_.size(); ++id) {
    if (!present_[id]) continue;
    check(names_.find(tokens_[id]) < 0, "tokenizer", "model.vocab: \"{}\" has two ids",
          tokens_[id]);
    names_.insert(tokens_[id], TokenId(id));
  }
  if (model.contains("unk_token") && !model["unk_token"].is_null()) {
    const std::string unk = string_at(model, "unk_token", "model");
    unk_ = names_.find(unk);
    check(unk_ >= 0, "tokenizer", "model.unk_token \"{}\" is not in the vocabulary", unk);
  }
  for (unsigned b = 0; b < 256; ++b) {
    byte_ids_[b] = names_.find(byte_characters()[b]);
    fallback_[b] = names_.find(fmt::format("<0x{:02X}>", b));
  }
  if (byte_level_ && ignore_merges_) {
    raw_.resize(tokens_.size());
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
      const std::string& token = tokens_[id];
      bool mapped = present_[id] && valid_utf8(token);
      for (std::size_t i = 0; mapped && i < token.size(); i += utf8_size(std::uint8_t(token[i]))) {
        const int byte = byte_of_character(decode_utf8(token, i));
        mapped = byte >= 0;
        raw_[id] += char(byte);
      }
      if (mapped) pieces_.insert(raw_[id], TokenId(id));
    }
  }
  add_merges(spec);
}

void Bpe::add_merges(const TokenizerSpec& spec) {
  std::size_t size = 16;
  while (size < spec.merges.size() * 2) size *= 2;
  merges_.resize(size);
  std::string joined;
  for (std::size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    joined.assign(left).append(right);
    const TokenId a = names_.find(left), b = names_.find(right), c = names_.find(joined);
    check(a >= 0 && b >= 0 && c >= 0, "tokenizer",
          "merge {} (\"{}\" \"{}\"): \"{}\" is not in the vocabulary", rank, left, right,
          a < 0   ? left
          : b < 0 ? right
                  : joined);
    const std::uint64_t key = pair_key(a, b);
    std::size_t i = mix(key);
    while (merges_[i & (size - 1)].id >= 0 && merges_[i & (size - 1)].pair != key) ++i;
    merges_[i & (size - 1)] = {key, std::uint32_t(rank), c};
  }
}

bool Bpe::has(TokenId id) const {
  return id >= 0 && std::size_t(id) < present_.size() && present_[std::size_t(id)];
}

const Bpe::Merge* Bpe::merge_of(TokenId left, TokenId right) const {
  const std::uint64_t key = pair_key(left, right);
  for (std::size_t i = mix(key);; ++i) {
    const Merge& merge = merges_[i & (merges_.size() - 1)];
    if (merge.pair == key) return &merge;
    if (merge.id < 0) return nullptr;
  }
}

void Bpe::encode(std::string_view piece, std::vector<TokenId>& out) const {
  static thread_local std::vector<TokenId> ids;
  if (piece.size() > CachedWord::kMaxBytes) {
    encode_uncached(piece, ids);
    out.insert(out.end(), ids.begin(), ids.end());
    return;
  }
  static thread_local std::vector<CachedWord> cache(kCacheEntries);
  CachedWord& word = cache[hash_of(piece) & (kCacheEntries - 1)];
  if (word.serial == serial_ && word.bytes == piece.size() &&
      std::memcmp(word.text, piece.data(), piece.size()) == 0) {
    out.insert(out.end(), word.ids, word.ids + word.count);
    return;
  }
  encode_uncached(piece, ids);
  out.insert(out.end(), ids.begin(), ids.end());
  if (ids.size() > CachedWord::kMaxIds) return;
  word.serial = serial_;
  word.bytes = std::uint8_t(piece.size());
  word.count = std::uint8_t(ids.size());
  std::memcpy(word.text, piece.data(), piece.size());
  std::copy(ids.begin(), ids.end(), word.ids);
}

void Bpe::encode_uncached(std::string_view piece, std::vector<TokenId>& ids) const {
  ids.clear();
  if (ignore_merges_) {
    const TokenId whole = byte_level_ ? pieces_.find(piece) : names_.find(piece);
    if (whole >= 0) {
      ids.push_back(whole);
      return;
    }
  }
  start(piece, ids);
  if (ids.size() <= kShortWord)
    merge_short(ids);
  else
    merge_long(ids);
}

// Ids of single characters; those the vocabulary lacks become bytes, or unk, or nothing.
void Bpe::start(std::string_view piece, std::vector<TokenId>& ids) const {
  bool pending_unk = false;
  for (std::size_t i = 0, length; i < piece.size(); i += length) {
    const auto lead = std::uint8_t(piece[i]);
    length = byte_level_ ? 1 : utf8_size(lead);
    const std::string_view character =
        byte_level_ ? std::string_view(byte_characters()[lead]) : piece.substr(i, length);
    const TokenId id = byte_level_ ? byte_ids_[lead] : names_.find(character);
    if (id >= 0) {
      if (pending_unk) ids.push_back(unk_);
      pending_unk = false;
      ids.push_back(id);
      continue;
    }
    if (byte_fallback_ && std::all_of(character.begin(), character.end(),
                                      [&](char c) { return fallback_[std::uint8_t(c)] >= 0; })) {
      for (const char c : character) ids.push_back(fallback_[std::uint8_t(c)]);
      continue;  // as the library: an unk before these bytes comes after them
    }
    if (unk_ < 0) continue;
    if (pending_unk && !fuse_unk_) ids.push_back(unk_);
    pending_unk = true;
  }
  if (pending_unk) ids.push_back(unk_);
}

void Bpe::merge_short(std::vector<TokenId>& ids) const {
  constexpr std::uint32_t kNone = ~0u;
  std::size_t n = ids.size();
  if (n < 2) return;
  std::array<std::uint32_t, kShortWord> ranks;
  std::array<TokenId, kShortWord> merged;
  const auto look_up = [&](std::size_t i) {
    const Merge* merge = merge_of(ids[i], ids[i + 1]);
    ranks[i] = merge ? merge->rank : kNone;
    merged[i] = merge ? merge->id : -1;
  };
  for (std::size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1) {
    const std::size_t best =
        std::size_t(std::min_element(ranks.begin(), ranks.begin() + (n - 1)) - ranks.begin());
    if (ranks[best] == kNone) break;
    ids[best] = merged[best];
    std::copy(ids.begin() + best + 2, ids.begin() + n, ids.begin() + best + 1);
    std::copy(ranks.begin() + best + 1, ranks.begin() + (n - 1), ranks.begin() + best);
    std::copy(merged.begin() + best + 1, merged.begin() + (n - 1), merged.begin() + best);
    --n;
    if (best > 0) look_up(best - 1);
    if (best + 1 < n) look_up(best);
  }
  ids.resize(n);
}

void Bpe::merge_long(std::vector<TokenId>& ids) const {
  check(ids.size() < (std::size_t{1} << 31), "tokenizer", "a piece of {} characters is too long",
        ids.size());
  struct Candidate {
    std::uint64_t order;  // rank, then position
    TokenId left, right;
    bool operator>(const Candidate& other) const { return order > other.order; }
  };
  constexpr std::uint32_t kEnd = ~0u;
  const auto n = std::uint32_t(ids.size());
  std::vector<std::uint32_t> next(n), previous(n);
  for (std::uint32_t i = 0; i < n; ++i) {
    next[i] = i + 1 < n ? i + 1 : kEnd;
    previous[i] = i > 0 ? i - 1 : kEnd;
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](std::uint32_t at) {
    const TokenId left = ids[at], right = ids[next[at]];
    if (const Merge* merge = merge_of(left, right))
      queue.push({std::uint64_t(merge->rank) << 32 | at, left, right});
  };
  for (std::uint32_t i = 0; i + 1 < n; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const auto at = std::uint32_t(top.order);
    const std::uint32_t right = next[at];
    // A candidate is stale once either side merged elsewhere; a swallowed symbol has id -1.
    if (ids[at] != top.left || right == kEnd || ids[right] != top.right) continue;
    ids[at] = merge_of(top.left, top.right)->id;
    ids[right] = -1;
    next[at] = next[right];
    if (next[at] != kEnd) {
      previous[next[at]] = at;
      offer(at);
    }
    if (previous[at] != kEnd) offer(previous[at]);
  }
  std::erase(ids, -1);
}

}  // namespace qad::text
