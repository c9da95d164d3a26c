// Unicode forms come from utf8proc; the rest is small.
#include "text/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>

#include "core/error.h"
#include "text/tokenizer_regex.h"
#include "text/tokenizer_spec.h"
#include "text/tokenizer_utf8.h"

namespace qad::text {
namespace {

void unicode_form(std::string& s, int form) {
  // Below U+0300 everything is in form C already; below U+0080 in every form.
  const unsigned char limit = form == UTF8PROC_COMPOSE ? 0xCC : 0x80;
  bool plain = true;
  for (const char c : s) plain &= static_cast<unsigned char>(c) < limit;
  if (plain) return;
  utf8proc_uint8_t* out = nullptr;
  const auto n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(s.data()),
                              static_cast<utf8proc_ssize_t>(s.size()), &out,
                              static_cast<utf8proc_option_t>(UTF8PROC_STABLE | form));
  check(n >= 0, "tokenizer", "Unicode normalisation failed: {}", utf8proc_errmsg(n));
  s.assign(reinterpret_cast<const char*>(out), static_cast<std::size_t>(n));
  std::free(out);
}

template <class F>
void map_characters(std::string& s, F f) {
  std::string out;
  out.reserve(s.size());
  for (std::size_t i = 0; i < s.size(); i += utf8_size(static_cast<unsigned char>(s[i])))
    f(decode_utf8(s, i), out);
  s = std::move(out);
}

void lowercase(std::string& s) {
  map_characters(s, [](char32_t c, std::string& out) {
    if (c == 0x130)
      out += "i\u0307";  // the one letter whose lower case is two
    else
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  });
}

void strip(std::string& s, bool left, bool right) {
  std::size_t begin = 0, end = s.size();
  while (left && begin < end && is_white_space(decode_utf8(s, begin)))
    begin += utf8_size(static_cast<unsigned char>(s[begin]));
  while (right && end > begin) {
    std::size_t last = end - 1;
    while ((static_cast<unsigned char>(s[last]) & 0xC0) == 0x80) --last;
    if (!is_white_space(decode_utf8(s, last))) break;
    end = last;
  }
  s = s.substr(begin, end - begin);
}

Normalizer replace(const Json& j) {
  const Json pattern = j.value("pattern", Json());
  const std::string content = string_at(j, "content", "normalizer Replace");
  if (pattern.is_object() && pattern.contains("String")) {
    const std::string from = string_at(pattern, "String", "normalizer Replace");
    if (from.empty()) return {};
    return [from, content](std::string& s) { replace_all(s, from, content); };
  }
  const Regex regex(string_at(pattern, "Regex", "normalizer Replace"));
  return [regex, content](std::string& s) {
    std::vector<Span> spans;
    regex.split(s, spans);
    std::string out;
    for (const Span& span : spans) {
      if (span.is_match)
        out += content;
      else
        out.append(s, span.begin, span.end - span.begin);
    }
    s = std::move(out);
  };
}

}  // namespace

Normalizer make_normalizer(const Json& j) {
  if (j.is_null()) return {};
  const std::string type = type_of(j);
  for (const auto& [name, form] : {std::pair{"NFC", int{UTF8PROC_COMPOSE}},
                                   {"NFD", int{UTF8PROC_DECOMPOSE}},
                                   {"NFKC", UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
                                   {"NFKD", UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}})
    if (type == name) return [form = form](std::string& s) { unicode_form(s, form); };
  if (type == "Lowercase") return lowercase;
  if (type == "StripAccents")
    return [](std::string& s) {
      map_characters(s, [](char32_t c, std::string& out) {
        if (!is_mark(c)) append_utf8(out, c);
      });
    };
  if (type == "Strip") {
    const bool left = bool_at(j, "strip_left", true), right = bool_at(j, "strip_right", true);
    return [left, right](std::string& s) { strip(s, left, right); };
  }
  if (type == "Prepend")
    return [prefix = string_at(j, "prepend", "normalizer Prepend")](std::string& s) {
      if (!s.empty()) s.insert(0, prefix);
    };
  if (type == "Replace") return replace(j);
  if (type == "Sequence") {
    std::vector<Normalizer> steps;
    const Json parts = j.value("normalizers", Json::array());
    for (const Json& part : parts)
      if (Normalizer step = make_normalizer(part)) steps.push_back(std::move(step));
    if (steps.empty()) return {};
    return [steps](std::string& s) {
      for (const Normalizer& step : steps) step(s);
    };
  }
  fail("tokenizer",
       "normalizer \"{}\" is not supported (known: NFC, NFD, NFKC, NFKD, Lowercase, Strip, "
       "StripAccents, Prepend, Replace, Sequence)",
       type.empty() ? j.dump() : type);
}

}  // namespace qad::text
