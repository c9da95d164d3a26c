// \s, \w and \h differ between the two engines (PCRE2's \s takes U+180E, its \w no marks), so they
// are spelled out as properties; what cannot be translated is refused.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/tokenizer_regex.h"

#include <pcre2.h>

#include <string>

#include "core/error.h"
#include "text/tokenizer_utf8.h"

namespace qad::text {
namespace {

std::string translate(std::string_view p) {
  const auto refuse = [&](std::string_view what) {
    fail("tokenizer", "pattern {}: {} is not supported", p, what);
  };
  constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", kHex = "0-9a-fA-F";
  std::string out;
  bool in_class = false;
  const auto set = [&](std::string_view members, bool negated) {
    if (in_class && negated) refuse("a negated escape inside a character class");
    out.append(in_class ? "" : negated ? "[^" : "[").append(members).append(in_class ? "" : "]");
  };
  for (std::size_t i = 0; i < p.size(); ++i) {
    const char c = p[i];
    const char next = i + 1 < p.size() ? p[i + 1] : '\0';
    if (c == '\\') {
      ++i;
      switch (next) {
        case 's':
          out += "\\p{White_Space}";
          break;
        case 'S':
          out += "\\P{White_Space}";
          break;
        case 'w':
        case 'W':
          set(kWord, next == 'W');
          break;
        case 'h':
        case 'H':
          set(kHex, next == 'H');
          break;
        case 'Q':
        case 'E':
        case 'C':
        case 'g':
        case 'k':
        case 'y':
        case 'Y':
        case 'O':
        case 'v':
        case 'V':
          refuse(std::string("\\") + next);
          break;
        case '\0':
          refuse("a lone backslash at the end");
          break;
        default:
          out.append("\\") += next;
          if ((next == 'p' || next == 'P' || next == 'x') && i + 1 < p.size() && p[i + 1] == '{')
            while (i + 1 < p.size() && p[i] != '}') out += p[++i];
      }
    } else if (in_class) {
      if (c == '[') refuse("a class inside a class");
      if (c == '&' && next == '&') refuse("an intersection of classes");
      in_class = c != ']';
      out += c;
    } else if (c == '[') {
      in_class = true;
      out += c;
      if (next == '^') out += p[++i];
      if (i + 1 < p.size() && p[i + 1] == ']') refuse("an empty class");
    } else {
      // Oniguruma's (?m) is PCRE2's (?s), and {n}+ repeats a repetition instead of forbidding
      // backtracking.
      if (c == '(' && next == '?' && i + 2 < p.size() &&
          std::string_view("msx-").find(p[i + 2]) != std::string_view::npos)
        refuse("an inline option other than (?i:");
      if (c == '(' && next == '*') refuse("a verb");
      if (c == '}' && next == '+') refuse("a + after {n}");
      out += c;
    }
  }
  return out;
}

struct MatchData {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  ~MatchData() { pcre2_match_data_free(data); }
};

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  std::string pattern;
  Code() = default;
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(std::string_view pattern) {
  check(valid_utf8(pattern), "tokenizer", "a pattern is not UTF-8");
  auto compiled = std::make_shared<Code>();
  compiled->pattern = pattern;
  const std::string translated = translate(pattern);
  int error = 0;
  PCRE2_SIZE at = 0;
  // Ruby's ^ and $, which Oniguruma follows here, are those of lines.
  compiled->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &at, nullptr);
  if (compiled->code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof message);
    fail("tokenizer", "pattern {}: {} at byte {}", pattern, reinterpret_cast<const char*>(message),
         at);
  }
  pcre2_jit_compile(compiled->code, PCRE2_JIT_COMPLETE);  // without JIT it is slower, not different
  code_ = std::move(compiled);
}

void Regex::split(std::string_view text, std::vector<Span>& out) const {
  static thread_local MatchData match;
  check(match.data != nullptr, "tokenizer", "out of memory for regular expressions");
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  std::size_t covered = 0;
  for (std::size_t from = 0; from < text.size();) {
    constexpr std::uint32_t kOptions = PCRE2_NO_UTF_CHECK;
    int rc = pcre2_match(code_->code, subject, text.size(), from, kOptions, match.data, nullptr);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
      rc = pcre2_match(code_->code, subject, text.size(), from, kOptions | PCRE2_NO_JIT, match.data,
                       nullptr);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    check(rc >= 0, "tokenizer", "pattern {}: PCRE2 gave up with error {} at byte {} of {}",
          code_->pattern, rc, from, text.size());
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer(match.data);
    if (found[0] >= found[1]) {  // an empty match splits nothing
      from = found[0] < text.size()
                 ? found[0] + utf8_size(static_cast<unsigned char>(text[found[0]]))
                 : text.size();
      continue;
    }
    if (covered < found[0]) out.push_back({covered, found[0], false});
    out.push_back({found[0], found[1], true});
    from = covered = found[1];
  }
  if (covered < text.size()) out.push_back({covered, text.size(), false});
}

}  // namespace qad::text
