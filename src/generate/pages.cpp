// Counting holders, and the index of full pages.
#include "generate/pages.h"

#include "core/error.h"

namespace qad::generate {

Pages::Pages(std::int64_t count, std::int64_t page_tokens)
    : page_tokens_(page_tokens), slots_(static_cast<std::size_t>(count)) {
  check(count > 0 && page_tokens > 0, "pages", "expected pages of tokens, found {} of {}", count,
        page_tokens);
  for (Page p = 0; p < count; ++p) {
    unheld_.push_back(p);
    slots_[static_cast<std::size_t>(p)].place = std::prev(unheld_.end());
  }
}

void Pages::hold(Page page) {
  Slot& slot = slots_[static_cast<std::size_t>(page)];
  if (slot.holders++ == 0) unheld_.erase(slot.place);
}

std::optional<Pages::Page> Pages::take() {
  if (unheld_.empty()) return std::nullopt;
  const Page page = unheld_.front();
  Slot& slot = slots_[static_cast<std::size_t>(page)];
  if (slot.known) index_.erase(*slot.known);
  slot.known.reset();
  hold(page);
  return page;
}

std::optional<Pages::Found> Pages::find(Content before, std::span<const text::TokenId> tokens) {
  const auto line = index_.find({before, {tokens.begin(), tokens.end()}});
  if (line == index_.end()) return std::nullopt;
  hold(line->second.page);
  return line->second;
}

Pages::Content Pages::filled(Page page, Content before, std::span<const text::TokenId> tokens) {
  check(static_cast<std::int64_t>(tokens.size()) == page_tokens_, "pages",
        "expected a page of {} tokens, found {}", page_tokens_, tokens.size());
  const auto [line, fresh] =
      index_.try_emplace({before, {tokens.begin(), tokens.end()}}, Found{page, contents_ + 1});
  if (!fresh) return line->second.content;  // another page has the same
  slots_[static_cast<std::size_t>(page)].known = line;
  return ++contents_;
}

void Pages::release(Page page) {
  Slot& slot = slots_[static_cast<std::size_t>(page)];
  check(slot.holders > 0, "pages", "page {} was released more often than it was held", page);
  if (--slot.holders > 0) return;
  // One that nobody will find again goes before those that somebody may.
  slot.place = unheld_.insert(slot.known ? unheld_.end() : unheld_.begin(), page);
}

}  // namespace qad::generate
