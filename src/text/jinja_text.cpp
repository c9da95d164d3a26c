// Python's text rules over UTF-8; character properties come from utf8proc.
#include "text/jinja_text.h"

#include <utf8proc.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <utility>

#include <fmt/core.h>

namespace qad::text::jinja {
namespace {

utf8proc_int32_t decode(std::string_view cp) {
  utf8proc_int32_t c = -1;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(cp.data()),
                   static_cast<utf8proc_ssize_t>(cp.size()), &c);
  return c < 0 ? 0xFFFD : c;
}

void append(std::string& out, utf8proc_int32_t c) {
  utf8proc_uint8_t bytes[4];
  out.append(reinterpret_cast<const char*>(bytes),
             static_cast<std::size_t>(utf8proc_encode_char(c, bytes)));
}

template <class F>
std::string map_case(std::string_view utf8, F f) {
  std::string out;
  out.reserve(utf8.size());
  for (const auto cp : code_points(utf8)) append(out, f(decode(cp)));
  return out;
}

enum class Case { none, lower, upper, title };

// Unicode's Lowercase and Uppercase: the letters, and what looks like one (Roman numerals, letters
// in circles, modifier letters).
Case case_of(utf8proc_int32_t c) {
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LL:
      return Case::lower;
    case UTF8PROC_CATEGORY_LU:
      return Case::upper;
    case UTF8PROC_CATEGORY_LT:
      return Case::title;
    default:
      break;
  }
  constexpr utf8proc_int32_t kUpper[][2] = {{0x2160, 0x216f},
                                            {0x24b6, 0x24cf},
                                            {0x1f130, 0x1f149},
                                            {0x1f150, 0x1f169},
                                            {0x1f170, 0x1f189}};
  constexpr utf8proc_int32_t kLower[][2] = {
      {0xaa, 0xaa},       {0xba, 0xba},       {0x2b0, 0x2b8},     {0x2c0, 0x2c1},
      {0x2e0, 0x2e4},     {0x345, 0x345},     {0x37a, 0x37a},     {0x1d2c, 0x1d6a},
      {0x1d78, 0x1d78},   {0x1d9b, 0x1dbf},   {0x2071, 0x2071},   {0x207f, 0x207f},
      {0x2090, 0x209c},   {0x2170, 0x217f},   {0x24d0, 0x24e9},   {0x2c7c, 0x2c7d},
      {0xa69c, 0xa69d},   {0xa770, 0xa770},   {0xa7f8, 0xa7f9},   {0xab5c, 0xab5f},
      {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107b0}, {0x107b2, 0x107ba}};
  for (const auto& [first, last] : kUpper)
    if (first <= c && c <= last) return Case::upper;
  for (const auto& [first, last] : kLower)
    if (first <= c && c <= last) return Case::lower;
  return Case::none;
}

bool cased(utf8proc_int32_t c) {
  return case_of(c) != Case::none;
}

bool all_of_case(std::string_view utf8, Case wanted) {
  bool any = false;
  for (const auto cp : code_points(utf8)) {
    const Case found = case_of(decode(cp));
    if (found != Case::none && found != wanted) return false;
    any |= found == wanted;
  }
  return any;
}

// Unicode's Case_Ignorable: what may stand inside a word without being a letter of it.
bool case_ignorable(utf8proc_int32_t c) {
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return std::u32string_view(
                 U"'.:\u00b7\u2018\u2019\u2024\u2027\u0387\u055f\u05f4"
                 U"\ufe13\ufe52\ufe55\uff07\uff0e\uff1a")
                 .find(static_cast<char32_t>(c)) != std::u32string_view::npos;
  }
}

// Whether the letter at [begin, end) ends a word of several letters: there a capital sigma becomes
// a final one (Unicode's Final_Sigma).
bool ends_word(std::string_view utf8, std::size_t begin, std::size_t end) {
  const auto letter_next = [&](bool forward) {
    for (std::size_t at = forward ? end : begin; forward ? at < utf8.size() : at > 0;) {
      std::size_t first = at, last = at;
      const auto inside = [&](std::size_t i) {
        return (static_cast<unsigned char>(utf8[i]) & 0xC0) == 0x80;
      };
      if (forward)
        for (++last; last < utf8.size() && inside(last);) ++last;
      else
        for (--first; first > 0 && inside(first);) --first;
      const auto c = decode(utf8.substr(first, last - first));
      if (!case_ignorable(c)) return cased(c);
      at = forward ? last : first;
    }
    return false;
  };
  return letter_next(false) && !letter_next(true);
}

bool printable(utf8proc_int32_t c) {
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return c == ' ';
    default:
      return true;
  }
}

}  // namespace

std::vector<std::string_view> code_points(std::string_view utf8) {
  std::vector<std::string_view> out;
  for (std::size_t i = 0; i < utf8.size();) {
    std::size_t n = 1;
    while (i + n < utf8.size() && (static_cast<unsigned char>(utf8[i + n]) & 0xC0) == 0x80) ++n;
    out.push_back(utf8.substr(i, n));
    i += n;
  }
  return out;
}

std::size_t length(std::string_view utf8) {
  std::size_t n = 0;
  for (std::size_t i = 0; i < utf8.size(); ++i)
    n += i == 0 || (static_cast<unsigned char>(utf8[i]) & 0xC0) != 0x80;
  return n;
}

std::string lower(std::string_view utf8) {
  std::string out;
  out.reserve(utf8.size());
  for (std::size_t i = 0; i < utf8.size();) {
    std::size_t end = i + 1;
    while (end < utf8.size() && (static_cast<unsigned char>(utf8[end]) & 0xC0) == 0x80) ++end;
    const auto c = decode(utf8.substr(i, end - i));
    if (c == 0x130)
      out += "i\u0307";  // the one letter whose lower case is two
    else
      append(out, c == 0x3A3 && ends_word(utf8, i, end) ? 0x3C2 : utf8proc_tolower(c));
    i = end;
  }
  return out;
}
std::string upper(std::string_view utf8) {
  return map_case(utf8, utf8proc_toupper);
}

bool is_upper(std::string_view utf8) {
  return all_of_case(utf8, Case::upper);
}
bool is_lower(std::string_view utf8) {
  return all_of_case(utf8, Case::lower);
}

std::string capitalize(std::string_view utf8) {
  bool first = true;
  return map_case(utf8, [&](utf8proc_int32_t c) {
    return std::exchange(first, false) ? utf8proc_totitle(c) : utf8proc_tolower(c);
  });
}

std::string title(std::string_view utf8) {
  bool inside = false;
  return map_case(utf8, [&](utf8proc_int32_t c) {
    return std::exchange(inside, cased(c)) ? utf8proc_tolower(c) : utf8proc_totitle(c);
  });
}

bool is_space(std::string_view cp) {
  const auto c = decode(cp);
  if (c < 128) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
  const auto category = utf8proc_category(c);
  return c == 0x85 || category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
         category == UTF8PROC_CATEGORY_ZP;
}

std::string_view strip(std::string_view text, std::string_view chars, int sides) {
  const auto drop = [&](std::string_view cp) {
    return chars.empty() ? is_space(cp) : chars.find(cp) != chars.npos;
  };
  const auto start_of_last = [&] {
    std::size_t i = text.size() - 1;
    while (i > 0 && (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80) --i;
    return i;
  };
  while ((sides & 1) && !text.empty()) {
    std::size_t n = 1;
    while (n < text.size() && (static_cast<unsigned char>(text[n]) & 0xC0) == 0x80) ++n;
    if (!drop(text.substr(0, n))) break;
    text.remove_prefix(n);
  }
  while ((sides & 2) && !text.empty()) {
    const std::size_t i = start_of_last();
    if (!drop(text.substr(i))) break;
    text = text.substr(0, i);
  }
  return text;
}

std::string python_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[32];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<std::size_t>(end - buffer));  // -d.ddde+xx, shortest
  const std::size_t e = text.find('e');
  int exponent = 0;
  std::from_chars(text.data() + e + (text[e + 1] == '+' ? 2 : 1), end, exponent);
  if (exponent < -4 || exponent >= 16)
    return fmt::format("{}e{}{:02}", text.substr(0, e), exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  const auto fixed =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed).ptr;
  std::string out(buffer, fixed);
  if (out.find('.') == out.npos) out += ".0";
  return out;
}

std::string python_quote(std::string_view utf8) {
  const char quote = utf8.find('\'') != utf8.npos && utf8.find('"') == utf8.npos ? '"' : '\'';
  std::string out(1, quote);
  for (const auto cp : code_points(utf8)) {
    const auto c = decode(cp);
    if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (c == quote || c == '\\')
      (out += '\\') += static_cast<char>(c);
    else if (printable(c))
      out += cp;
    else if (c < 0x100)
      out += fmt::format("\\x{:02x}", c);
    else if (c < 0x10000)
      out += fmt::format("\\u{:04x}", c);
    else
      out += fmt::format("\\U{:08x}", c);
  }
  return out += quote;
}

std::string json_quote(std::string_view utf8, bool ensure_ascii) {
  std::string out = "\"";
  for (const auto cp : code_points(utf8)) {
    const auto c = decode(cp);
    if (c == '"' || c == '\\')
      (out += '\\') += static_cast<char>(c);
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (c == '\b')
      out += "\\b";
    else if (c == '\f')
      out += "\\f";
    else if (c < 0x20)
      out += fmt::format("\\u{:04x}", c);
    else if (c < 0x7f || !ensure_ascii)
      out += cp;
    else if (c < 0x10000)
      out += fmt::format("\\u{:04x}", c);
    else
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((c - 0x10000) >> 10),
                         0xDC00 + ((c - 0x10000) & 0x3FF));
  }
  return out += '"';
}

std::string html_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '\'')
      out += "&#39;";
    else if (c == '"')
      out += "&#34;";
    else
      out += c;
  }
  return out;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to,
                        long long count) {
  std::string out;
  if (from.empty()) {  // Python inserts `to` around every code point
    for (const auto cp : code_points(text)) {
      if (count-- != 0)
        out += to;
      else
        count = 0;
      out += cp;
    }
    if (count != 0) out += to;
    return out;
  }
  std::size_t pos = 0;
  for (std::size_t hit; count != 0 && (hit = text.find(from, pos)) != text.npos; --count) {
    out.append(text.substr(pos, hit - pos)).append(to);
    pos = hit + from.size();
  }
  return out.append(text.substr(pos));
}

std::string unescape(std::string_view s) {
  std::string out;
  for (std::size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '\\' || i + 1 == s.size()) {
      out += s[i];
      continue;
    }
    const char c = s[++i];
    constexpr std::string_view kNames = "abfnrtv\\'\"", kValues = "\a\b\f\n\r\t\v\\'\"";
    if (c == '\n') continue;
    if (const auto k = kNames.find(c); k != kNames.npos) {
      out += kValues[k];
    } else if (c >= '0' && c <= '7') {
      int value = 0;
      std::size_t n = 0;
      for (; n < 3 && i + n < s.size() && s[i + n] >= '0' && s[i + n] <= '7'; ++n)
        value = value * 8 + (s[i + n] - '0');
      append(out, value);
      i += n - 1;
    } else if (const std::size_t digits = c == 'x'   ? 2
                                          : c == 'u' ? 4
                                          : c == 'U' ? 8
                                                     : 0;
               digits && i + digits < s.size()) {
      unsigned value = 0;
      const char* begin = s.data() + i + 1;
      const auto [end, error] = std::from_chars(begin, begin + digits, value, 16);
      if (error == std::errc() && end == begin + digits && value < 0x110000) {
        append(out, static_cast<utf8proc_int32_t>(value));
        i += digits;
      } else {
        (out += '\\') += c;
      }
    } else {
      (out += '\\') += c;
    }
  }
  return out;
}

}  // namespace qad::text::jinja
