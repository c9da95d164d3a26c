// Every pre-tokenizer here is a way to find spans and one of five ways to cut at them, as in the
// `tokenizers` library.
#include "text/pre_tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "text/tokenizer_spec.h"
#include "text/tokenizer_utf8.h"

namespace qad::text {
namespace {

using Step = PreTokenizer::Step;
using Finder = std::function<void(std::string_view, std::vector<Span>&)>;

enum class Cut { removed, isolated, contiguous, merged_with_previous, merged_with_next };

Cut cut_of(std::string name) {
  // Rust's names ("MergedWithNext") in files, Python's ("merged_with_next") in hand-written ones.
  std::erase(name, '_');
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (name == "removed") return Cut::removed;
  if (name == "isolated") return Cut::isolated;
  if (name == "contiguous") return Cut::contiguous;
  if (name == "mergedwithprevious") return Cut::merged_with_previous;
  if (name == "mergedwithnext") return Cut::merged_with_next;
  fail("tokenizer", "split behavior \"{}\" is not supported", name);
}

// Joins spans in place; what is removed disappears.
void apply(Cut cut, std::vector<Span>& spans) {
  std::size_t n = 0;
  bool previous = false;
  switch (cut) {
    case Cut::isolated:
      return;
    case Cut::removed:
      std::erase_if(spans, [](const Span& s) { return s.is_match; });
      return;
    case Cut::contiguous:
      for (const Span& span : spans) {
        if (n > 0 && spans[n - 1].is_match == span.is_match)
          spans[n - 1].end = span.end;
        else
          spans[n++] = span;
      }
      break;
    case Cut::merged_with_previous:
      for (const Span span : spans) {
        if (span.is_match && !previous && n > 0)
          spans[n - 1].end = span.end;
        else
          spans[n++] = span;
        previous = span.is_match;
      }
      break;
    case Cut::merged_with_next:
      std::reverse(spans.begin(), spans.end());
      for (const Span span : spans) {
        if (span.is_match && !previous && n > 0)
          spans[n - 1].begin = span.begin;
        else
          spans[n++] = span;
        previous = span.is_match;
      }
      spans.resize(n);
      std::reverse(spans.begin(), spans.end());
      return;
  }
  spans.resize(n);
}

Step splitter(Finder find, Cut cut, bool invert = false) {
  return [=](Piece piece, PieceStorage& storage, std::vector<Piece>& out) {
    std::vector<Span>& spans = storage.spans;
    spans.clear();
    find(piece.text, spans);
    if (invert)
      for (Span& span : spans) span.is_match = !span.is_match;
    apply(cut, spans);
    for (const Span& span : spans)
      if (span.begin < span.end)
        out.push_back(
            {piece.text.substr(span.begin, span.end - span.begin), piece.first && span.begin == 0});
  };
}

Finder regex_finder(std::string_view pattern) {
  return [regex = Regex(pattern)](std::string_view s, std::vector<Span>& spans) {
    regex.split(s, spans);
  };
}

Finder string_finder(std::string pattern) {
  return [pattern = std::move(pattern)](std::string_view s, std::vector<Span>& spans) {
    std::size_t covered = 0;
    for (std::size_t at; !pattern.empty() && (at = s.find(pattern, covered)) != s.npos;
         covered = at + pattern.size()) {
      if (covered < at) spans.push_back({covered, at, false});
      spans.push_back({at, at + pattern.size(), true});
    }
    if (covered < s.size()) spans.push_back({covered, s.size(), false});
  };
}

template <class F>
Finder character_finder(F wanted) {
  return [wanted](std::string_view s, std::vector<Span>& spans) {
    std::size_t covered = 0;
    for (std::size_t i = 0, size; i < s.size(); i += size) {
      size = utf8_size(static_cast<unsigned char>(s[i]));
      if (!wanted(decode_utf8(s, i))) continue;
      if (covered < i) spans.push_back({covered, i, false});
      spans.push_back({i, i + size, true});
      covered = i + size;
    }
    if (covered < s.size()) spans.push_back({covered, s.size(), false});
  };
}

Step split(const Json& j) {
  const Json pattern = j.value("pattern", Json());
  const Cut cut = cut_of(string_at(j, "behavior", "pre_tokenizer Split"));
  const bool invert = bool_at(j, "invert", false);
  if (pattern.is_object() && pattern.contains("String"))
    return splitter(string_finder(string_at(pattern, "String", "Split")), cut, invert);
  return splitter(regex_finder(string_at(pattern, "Regex", "pre_tokenizer Split")), cut, invert);
}

Step metaspace(const Json& j) {
  const std::string replacement = string_at(j, "replacement", "pre_tokenizer Metaspace");
  // Older files have add_prefix_space in place of prepend_scheme.
  std::string scheme = bool_at(j, "add_prefix_space", true) ? "always" : "never";
  if (j.contains("prepend_scheme") && scheme != "never")
    scheme = string_at(j, "prepend_scheme", "pre_tokenizer Metaspace");
  check(scheme == "always" || scheme == "first" || scheme == "never", "tokenizer",
        "Metaspace prepend_scheme \"{}\": expected always, first or never", scheme);
  const bool cuts = bool_at(j, "split", true);
  const Step pieces = splitter(string_finder(replacement), Cut::merged_with_next);
  return [=](Piece piece, PieceStorage& storage, std::vector<Piece>& out) {
    std::string& text = storage.texts.emplace_back(piece.text);
    replace_all(text, " ", replacement);
    if (scheme != "never" && (scheme == "always" || piece.first) && !text.starts_with(replacement))
      text.insert(0, replacement);
    if (cuts)
      pieces({text, piece.first}, storage, out);
    else
      out.push_back({text, piece.first});
  };
}

Step prefix_space() {
  return [](Piece piece, PieceStorage& storage, std::vector<Piece>& out) {
    if (!piece.text.starts_with(' '))
      piece.text = storage.texts.emplace_back(" ").append(piece.text);
    out.push_back(piece);
  };
}

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

PreTokenizer::PreTokenizer(const Json& pre_tokenizer) {
  if (!pre_tokenizer.is_null()) add(pre_tokenizer);
}

void PreTokenizer::add(const Json& j) {
  const std::string type = type_of(j);
  if (type == "Sequence") {
    const Json parts = j.value("pretokenizers", Json::array());
    for (const Json& part : parts) add(part);
    return;
  }
  check(!byte_level_, "tokenizer", "pre_tokenizer \"{}\" after ByteLevel is not supported", type);
  if (type == "Split") {
    steps_.push_back(split(j));
  } else if (type == "ByteLevel") {
    byte_level_ = true;
    if (bool_at(j, "add_prefix_space", true)) steps_.push_back(prefix_space());
    if (bool_at(j, "use_regex", true))
      steps_.push_back(splitter(regex_finder(kGpt2Pattern), Cut::isolated));
  } else if (type == "Digits") {
    steps_.push_back(splitter(character_finder(is_numeric), bool_at(j, "individual_digits", false)
                                                                ? Cut::isolated
                                                                : Cut::contiguous));
  } else if (type == "Punctuation") {
    const Cut cut =
        j.contains("behavior") ? cut_of(string_at(j, "behavior", "Punctuation")) : Cut::isolated;
    steps_.push_back(splitter(character_finder(is_punctuation), cut));
  } else if (type == "Metaspace") {
    steps_.push_back(metaspace(j));
  } else if (type == "WhitespaceSplit") {
    steps_.push_back(splitter(character_finder(is_white_space), Cut::removed));
  } else if (type == "Whitespace") {  // words, and runs of what is neither word nor space
    steps_.push_back(splitter(character_finder(is_white_space), Cut::removed));
    steps_.push_back(splitter(character_finder(is_word), Cut::contiguous));
  } else {
    fail("tokenizer",
         "pre_tokenizer \"{}\" is not supported (known: Split, ByteLevel, Digits, Punctuation, "
         "Metaspace, Whitespace, WhitespaceSplit, Sequence)",
         type.empty() ? j.dump() : type);
  }
}

std::vector<Piece> PreTokenizer::cut(Piece text, PieceStorage& storage) const {
  std::vector<Piece> pieces, next;
  if (!text.text.empty()) pieces.push_back(text);
  for (const Step& step : steps_) {
    next.clear();
    for (const Piece& piece : pieces) step(piece, storage, next);
    pieces.swap(next);
  }
  return pieces;
}

}  // namespace qad::text
