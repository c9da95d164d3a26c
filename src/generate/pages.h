// The pages of a key-value cache: who holds which, and which hold a beginning that another sequence
// has, too, and need not be computed again.
//
// A full page is known by the tokens in it and by the page before it. A page that nobody holds
// keeps what is in it until its room is wanted; the one that has waited longest goes first.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "text/tokenizer.h"

namespace qad::generate {

class Pages {
 public:
  using Page = std::int32_t;
  // What a full page and all before it hold; 0: nothing. Two pages of one content hold the same.
  using Content = std::int64_t;

  Pages(std::int64_t count, std::int64_t page_tokens);

  std::int64_t page_tokens() const { return page_tokens_; }
  std::int64_t count() const { return static_cast<std::int64_t>(slots_.size()); }
  std::int64_t free() const { return static_cast<std::int64_t>(unheld_.size()); }

  // A page of one's own; absent: all are held.
  std::optional<Page> take();
  // Holds the page that has these tokens (a full page of them) behind `before`; absent: none has.
  struct Found {
    Page page;
    Content content;
  };
  std::optional<Found> find(Content before, std::span<const text::TokenId> tokens);
  // A page that one holds is full of these tokens, behind `before`.
  Content filled(Page page, Content before, std::span<const text::TokenId> tokens);
  void release(Page page);

 private:
  using Key = std::pair<Content, std::vector<text::TokenId>>;
  struct Slot {
    std::int64_t holders = 0;
    std::list<Page>::iterator place;                      // in unheld_, while nobody holds it
    std::optional<std::map<Key, Found>::iterator> known;  // its line in the index
  };
  void hold(Page page);

  std::int64_t page_tokens_;
  std::vector<Slot> slots_;
  std::list<Page> unheld_;  // the next to go first
  std::map<Key, Found> index_;
  Content contents_ = 0;
};

}  // namespace qad::generate
