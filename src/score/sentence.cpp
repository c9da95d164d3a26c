// A mark that may end a sentence is judged by its surroundings: the word that it closes and the one
// behind it. Both are cut into tokens, each token is marked by its look, and pairs of tokens
// correct the marks (sections 3 and 4 of the paper).
#include "score/sentence.h"

#include <algorithm>
#include <string>

#include "score/sentence_model.h"
#include "text/jinja_text.h"
#include "text/tokenizer_utf8.h"

namespace qad::score {
namespace {

constexpr std::string_view kQuotes[] = {"\u2018", "\u2019", "\u201c", "\u201d", "\u00ab", "\u00bb"};

std::size_t size_at(std::string_view s, std::size_t at) {
  return text::utf8_size(static_cast<unsigned char>(s[at]));
}

bool space_at(std::string_view s, std::size_t at) {
  return at < s.size() && text::jinja::is_space(s.substr(at, size_at(s, at)));
}

// The length of the quote of more than ASCII at `at`, or 0.
std::size_t quote_at(std::string_view s, std::size_t at) {
  for (const std::string_view quote : kQuotes)
    if (s.substr(at, quote.size()) == quote) return quote.size();
  return 0;
}

// The length of the character at `at` if no word contains it, or 0.
std::size_t non_word_at(std::string_view s, std::size_t at) {
  if (at >= s.size()) return 0;
  if (std::string_view(")\";}]*:@'({[?!").find(s[at]) != std::string_view::npos) return 1;
  return quote_at(s, at);
}

// The length of the dashes or dots at `at` that are one token, or 0: "--", "...", ". . .".
std::size_t long_mark_at(std::string_view s, std::size_t at) {
  const auto run = [&](char c) { return std::min(s.find_first_not_of(c, at), s.size()) - at; };
  if (at >= s.size() || (s[at] != '-' && s[at] != '.')) return 0;
  if (const std::size_t length = run(s[at]); length >= 2) return length;
  if (s[at] != '.') return 0;
  std::size_t end = at, spaced = 0;
  for (; end < s.size() && s[end] == '.' && space_at(s, end + 1); ++spaced)
    end += 1 + size_at(s, end + 1);
  if (end < s.size() && s[end] == '.') return spaced >= 2 ? end + 1 - at : 0;
  return 0;
}

std::vector<std::string_view> tokens(std::string_view s) {
  std::vector<std::string_view> out;
  for (std::size_t at = 0; at < s.size();) {
    if (space_at(s, at)) {
      at += size_at(s, at);
      continue;
    }
    std::size_t end = at + long_mark_at(s, at);
    if (end == at) {
      end += size_at(s, at);
      constexpr std::string_view kNoStart = "(\"`{[:;&#*@)}]-,";
      const auto ends_word = [&](std::size_t i) {
        const auto closes = [&](std::size_t k) {
          return k >= s.size() || space_at(s, k) || non_word_at(s, k) > 0 || long_mark_at(s, k) > 0;
        };
        return closes(i) || (s[i] == ',' && closes(i + 1));
      };
      if (kNoStart.find(s[at]) == kNoStart.npos)
        while (!ends_word(end)) end += size_at(s, end);
    }
    out.push_back(s.substr(at, end - at));
    at = end;
  }
  return out;
}

// Whether a sentence ends at some token of `context` but the last.
bool contains_break(std::string_view context) {
  const auto cut = tokens(context);
  std::vector<Token> marked;
  for (const std::string_view token : cut) marked.push_back(mark(token));
  for (std::size_t i = 0; i + 1 < marked.size(); ++i) {
    correct(marked[i], marked[i + 1]);
    if (marked[i].ends_sentence) return true;
  }
  return false;
}

struct Mark {
  std::size_t word;  // where its word begins
  std::size_t at;    // it
  std::size_t next;  // where a sentence behind it would begin
  std::size_t end;   // where its context ends
};

// The marks that may end a sentence, of several in one word only the last: those before white
// space and another word, or before a character that no word contains.
std::vector<Mark> marks(std::string_view s) {
  std::vector<Mark> out;
  std::size_t word = 0;
  for (std::size_t at = 0; at < s.size(); ++at) {
    if (s[at] == ' ' || (s[at] >= '\t' && s[at] <= '\r')) word = at + 1;
    if (s[at] != '.' && s[at] != '?' && s[at] != '!') continue;
    Mark mark{word, at, at + 1, at + 1 + non_word_at(s, at + 1)};
    if (mark.end == mark.next) {
      while (space_at(s, mark.next)) mark.next += size_at(s, mark.next);
      if (mark.next == at + 1 || mark.next == s.size()) continue;
      for (mark.end = mark.next; mark.end < s.size() && !space_at(s, mark.end);)
        mark.end += size_at(s, mark.end);
    }
    if (!out.empty() && out.back().word == word) out.pop_back();
    out.push_back(mark);
  }
  return out;
}

// The length of closing quotes and brackets at the start of `s` that belong to what is before it,
// with the white space behind them; `closing` gets the length without.
std::size_t closing_marks(std::string_view s, std::size_t& closing) {
  std::size_t at = 0;
  for (std::size_t size; at < s.size(); at += size) {
    size = std::string_view("\"')]}").find(s[at]) != std::string_view::npos ? 1 : quote_at(s, at);
    if (size == 0) break;
    // As few as are followed by white space, a dash or the end.
    if (at + size == s.size() || space_at(s, at + size) || s.substr(at + size, 2) == "--") {
      closing = at += size;
      while (space_at(s, at)) at += size_at(s, at);
      return at;
    }
  }
  return 0;
}

}  // namespace

std::vector<std::string_view> sentences(std::string_view text) {
  text = text::jinja::strip(text, "", 2);
  std::vector<std::string_view> out;
  std::size_t begin = 0;
  const auto add = [&](std::size_t end) {
    if (end > begin) out.push_back(text::jinja::strip(text.substr(begin, end - begin), "", 1));
  };
  for (const Mark& mark : marks(text)) {
    if (!contains_break(text.substr(mark.word, mark.end - mark.word))) continue;
    std::size_t closing = 0;
    const std::size_t moved = closing_marks(text.substr(mark.next), closing);
    add(moved > 0 ? mark.next + closing : mark.at + 1);
    begin = mark.next + moved;
  }
  add(text.size());
  return out;
}

}  // namespace qad::score
