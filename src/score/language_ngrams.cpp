// Each step as langdetect takes it, oddities included: its counting of Latin letters takes in
// "[\]^_`", and a text's Vietnamese letters count as foreign ones.
#include "score/language_ngrams.h"

#include <utf8proc.h>

#include <string>

#include "score/instruction_regex.h"
#include "text/jinja_text.h"
#include "text/tokenizer_utf8.h"

namespace qad::score {
namespace {

constexpr std::size_t kMaxLetters = 10'000;

std::u32string decode(std::string_view utf8) {
  std::u32string out;
  for (std::size_t i = 0; i < utf8.size();
       i += text::utf8_size(static_cast<unsigned char>(utf8[i])))
    out += text::decode_utf8(utf8, i);
  return out;
}

std::string blank_out(std::string_view s, const PythonRegex& what) {
  std::string out;
  for (const std::string_view part : what.split(s)) out.append(out.empty() ? "" : " ").append(part);
  return out;
}

bool is_upper(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z';
  std::string utf8;
  text::append_utf8(utf8, c);
  return text::jinja::is_upper(utf8);
}

// Letters with a tone mark behind them become Vietnamese letters of one code point.
void compose_vietnamese(std::u32string& s) {
  constexpr std::u32string_view kLetters = U"AEIOUYaeiouyÂÊÔâêôĂăƠơƯư";
  constexpr std::u32string_view kMarks = U"\u0300\u0301\u0303\u0309\u0323";
  std::size_t out = 0;
  for (std::size_t i = 0; i < s.size(); ++i, ++out) {
    s[out] = s[i];
    if (i + 1 == s.size() || kMarks.find(s[i + 1]) == kMarks.npos ||
        kLetters.find(s[i]) == kLetters.npos)
      continue;
    utf8proc_int32_t pair[2] = {static_cast<utf8proc_int32_t>(s[i]),
                                static_cast<utf8proc_int32_t>(s[i + 1])};
    utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE);
    s[out] = static_cast<char32_t>(pair[0]);
    ++i;
  }
  s.resize(out);
}

void remove_minor_latin(std::u32string& s) {
  const auto latin = [](char32_t c) { return c >= 'A' && c <= 'z'; };
  std::size_t letters = 0, others = 0;
  for (const char32_t c : s) {
    letters += latin(c);
    others += c >= 0x300;
  }
  if (letters * 2 < others) std::erase_if(s, latin);
}

char32_t normal(char32_t c, const Ideographs& ideographs) {
  const auto in = [c](char32_t first, char32_t last) { return first <= c && c <= last; };
  if (c < 0x80) return in('A', 'Z') || in('a', 'z') ? c : U' ';
  if (c == 0xA0 || c == 0xAB || c == 0xB0 || c == 0xBB) return U' ';
  if (c == 0x219) return 0x15F;  // Romanian s and t: comma below as cedilla
  if (c == 0x21B) return 0x163;
  if (c == 0x6CC) return 0x64A;                                 // Persian yeh as the Arabic one
  if (in(0x1EA0, 0x1EFF)) return 0x1EC3;                        // any letter of Vietnamese alone
  if (in(0x2000, 0x206F)) return U' ';                          // punctuation
  if (in(0x3040, 0x309F)) return 0x3042;                        // Hiragana
  if (in(0x30A0, 0x30FF)) return 0x30A2;                        // Katakana
  if (in(0x3100, 0x312F) || in(0x31A0, 0x31BF)) return 0x3105;  // Bopomofo
  if (in(0xAC00, 0xD7AF)) return 0xAC00;                        // Hangul
  if (in(0x4E00, 0x9FFF)) {
    const auto found = ideographs.find(c);
    return found == ideographs.end() ? c : found->second;
  }
  return c;
}

}  // namespace

std::vector<NGram> ngrams(std::string_view text, const Ideographs& ideographs) {
  static const PythonRegex web("https?://[-_.?&~;+=/#0-9A-Za-z]{1,2076}");
  static const PythonRegex mail("[-_.0-9A-Za-z]{1,64}@[-_0-9A-Za-z]{1,255}[-_.0-9A-Za-z]{1,255}");
  std::u32string letters = decode(blank_out(blank_out(text, web), mail));
  compose_vietnamese(letters);
  if (letters.size() > kMaxLetters) letters.resize(kMaxLetters);
  remove_minor_latin(letters);

  std::vector<NGram> out;
  constexpr std::uint64_t kLetter = (1u << 21) - 1;
  std::uint64_t gram = U' ';  // the last letters of this word, a space before it
  std::size_t length = 1;
  bool capitals = false;  // inside a word of capitals, which tells little: its letters do not count
  for (char32_t c : letters) {
    c = normal(c, ideographs);
    const auto last = static_cast<char32_t>(gram & kLetter);
    if (last == U' ') {
      gram = U' ';
      length = 1;
      capitals = false;
      if (c == U' ') continue;
    }
    gram = (gram << 21 | c) & ((std::uint64_t{1} << 63) - 1);
    length = length < 3 ? length + 1 : 3;
    if (!is_upper(c))
      capitals = false;
    else if (is_upper(last))
      capitals = true;
    if (capitals) continue;
    if (c != U' ') out.push_back(c);
    if (length >= 2) out.push_back(gram & ((std::uint64_t{1} << 42) - 1));
    if (length >= 3) out.push_back(gram);
  }
  return out;
}

}  // namespace qad::score
