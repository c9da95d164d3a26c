// Where the two engines read the same letters differently (\w, \s, \b, \Z, \v, \u, "{,n}", "[["),
// the pattern is respelled; what only PCRE2 knows is refused, as Python does.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "score/instruction_regex.h"

#include <pcre2.h>

#include <string>

#include "core/error.h"
#include "text/tokenizer_utf8.h"

namespace qad::score {
namespace {

// str.isalnum() and "_"; str.isspace(). Spelled out, since PCRE2's own sets differ and change.
constexpr std::string_view kWord = "\\p{L}\\p{N}_";
constexpr std::string_view kSpace =
    "\\t-\\r\\x1c-\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"
    "\\x{3000}";
constexpr std::uint32_t kMatchLimit = 10'000'000;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : p_(pattern) {}

  std::string run() {
    while (i_ < p_.size()) {
      if (p_[i_] == '\\')
        escape();
      else if (in_class_)
        class_member();
      else if (p_[i_] == '[')
        open_class();
      else if (p_[i_] == '(')
        group();
      else if (p_[i_] == '{' && peek(1) == ',')
        out_ += "{0", ++i_;
      else
        out_ += p_[i_++];
    }
    return std::move(out_);
  }

 private:
  char peek(std::size_t n) const { return i_ + n < p_.size() ? p_[i_ + n] : '\0'; }
  [[noreturn]] void refuse(std::string_view what) const {
    fail("regex", "pattern {}: {} at byte {}", p_, what, i_);
  }

  void escape() {
    check(i_ + 1 < p_.size(), "regex", "pattern {}: a lone backslash at the end", p_);
    const char c = p_[i_ + 1];
    const auto set = [&](std::string_view members) {
      out_.append(in_class_ ? "" : "[").append(members).append(in_class_ ? "" : "]");
    };
    const auto code_point = [&](std::size_t digits) {
      const std::string_view hex = p_.substr(i_ + 2, digits);
      if (hex.size() < digits || hex.find_first_not_of("0123456789abcdefABCDEF") != hex.npos)
        refuse(fmt::format("\\{} without {} hexadecimal digits", c, digits));
      (out_ += "\\x{").append(hex) += "}";
      i_ += digits;
    };
    switch (c) {
      case 'w':
        set(kWord);
        break;
      case 's':
        set(kSpace);
        break;
      case 'W':
        out_ += in_class_ ? std::string("\\W") : fmt::format("[^{}]", kWord);
        break;
      case 'S':
        out_ += in_class_ ? std::string("\\S") : fmt::format("[^{}]", kSpace);
        break;
      case 'b':
      case 'B':
        if (in_class_ && c == 'B') refuse("\\B in a class");
        if (in_class_)
          out_ += "\\x08";
        else if (c == 'b')
          out_ += fmt::format("(?:(?<=[{0}])(?![{0}])|(?<![{0}])(?=[{0}]))", kWord);
        else
          out_ += fmt::format("(?:(?<=[{0}])(?=[{0}])|(?<![{0}])(?![{0}]))", kWord);
        break;
      case 'A':
      case 'Z':
        if (in_class_) refuse(fmt::format("\\{} in a class", c));
        out_ += c == 'A' ? "\\A" : "\\z";
        break;
      case 'v':
        out_ += "\\x0b";
        break;
      case 'x':
        code_point(2);
        break;
      case 'u':
        code_point(4);
        break;
      case 'U':
        code_point(8);
        break;
      case 'd':
      case 'D':
      case 'a':
      case 'f':
      case 'n':
      case 'r':
      case 't':
        (out_ += '\\') += c;
        break;
      default:
        if (is_letter(c)) refuse(fmt::format("unknown escape \\{}", c));
        if (static_cast<unsigned char>(c) < 0x80) out_ += '\\';  // a digit or punctuation
        out_ += c;
    }
    i_ += 2;
  }

  void open_class() {
    in_class_ = true;
    out_ += p_[i_++];
    if (peek(0) == '^') out_ += p_[i_++];
    if (peek(0) == ']') out_ += "\\]", ++i_;
  }
  void class_member() {
    if (p_[i_] == '[') out_ += '\\';  // "[:alpha:]" is no class in Python
    in_class_ = p_[i_] != ']';
    out_ += p_[i_++];
  }

  void group() {
    out_ += p_[i_++];
    if (peek(0) == '*') refuse("nothing to repeat");
    if (peek(0) != '?') return;
    const std::string_view rest = p_.substr(i_ + 1);
    for (const std::string_view known : {":", "=", "!", "<=", "<!", "P<", "P=", ">", "#", "("})
      if (rest.starts_with(known)) {
        if (known == "(" && !is_digit(peek(2)) && !is_letter(peek(2)) && peek(2) != '_')
          refuse("a condition that is no group");
        if (known == "(" && (rest.starts_with("(R") || rest.starts_with("(DEFINE")))
          refuse("a condition that is no group");
        return;
      }
    const std::size_t end = rest.find_first_not_of("ims-");
    if (end == 0 || end == rest.npos || (rest[end] != ')' && rest[end] != ':'))
      refuse("an extension or inline flag that is not supported");
  }

  std::string_view p_;
  std::string out_;
  std::size_t i_ = 0;
  bool in_class_ = false;
};

// Ignoring case, Python takes the dotted capital and the dotless small I for an i; they have no
// other case in PCRE2.
std::string plain_i(std::string_view s) {
  std::string out(s);
  text::replace_all(out, "\u0130", "i");
  text::replace_all(out, "\u0131", "i");
  return out;
}

}  // namespace

struct PythonRegex::Code {
  std::string pattern;
  bool ignore_case = false;
  pcre2_code* code = nullptr;
  pcre2_match_context* limits = nullptr;
  Code() = default;
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() {
    pcre2_match_context_free(limits);
    pcre2_code_free(code);
  }
};

PythonRegex::PythonRegex(std::string_view pattern, Flags flags) {
  check(text::valid_utf8(pattern), "regex", "a pattern is not UTF-8");
  auto made = std::make_shared<Code>();
  made->pattern = pattern;
  made->ignore_case = flags & ignore_case;
  std::string translated = Translator(pattern).run();
  if (made->ignore_case) translated = plain_i(translated);
  std::uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_ALT_CIRCUMFLEX | PCRE2_NEVER_BACKSLASH_C;
  if (flags & ignore_case) options |= PCRE2_CASELESS;
  if (flags & multiline) options |= PCRE2_MULTILINE;
  const std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  made->limits = pcre2_match_context_create(nullptr);
  check(context && made->limits, "regex", "out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_match_limit(made->limits, kMatchLimit);
  int error = 0;
  PCRE2_SIZE at = 0;
  made->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                             options, &error, &at, context.get());
  if (made->code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof message);
    fail("regex", "pattern {}: {}", pattern, reinterpret_cast<const char*>(message));
  }
  pcre2_jit_compile(made->code, PCRE2_JIT_COMPLETE);  // without JIT it is slower, not different
  code_ = std::move(made);
}

void PythonRegex::for_each(std::string_view text, const Each& f) const {
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
      pcre2_match_data_create(2, nullptr), pcre2_match_data_free);
  check(match != nullptr, "regex", "out of memory");
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  std::uint32_t options = PCRE2_NO_UTF_CHECK;
  for (std::size_t from = 0;;) {
    int rc =
        pcre2_match(code_->code, subject, text.size(), from, options, match.get(), code_->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
      rc = pcre2_match(code_->code, subject, text.size(), from, options | PCRE2_NO_JIT, match.get(),
                       code_->limits);
    if (rc == PCRE2_ERROR_NOMATCH) return;
    check(
        rc >= 0, "regex",
        "pattern {}: PCRE2 gave up with error {} at byte {} of {}; write it so that it needs less "
        "backtracking",
        code_->pattern, rc, from, text.size());
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer(match.get());
    // rc: how many groups are set, the whole being one; 0 for more than there is room for.
    const bool grouped = rc != 1 && found[2] != PCRE2_UNSET;
    const std::string_view whole = text.substr(found[0], found[1] - found[0]);
    if (!f(whole, grouped ? text.substr(found[2], found[3] - found[2]) : whole)) return;
    from = found[1];
    // After an empty match Python goes on at the same place, where a second one does not count.
    options = PCRE2_NO_UTF_CHECK | (found[0] == found[1] ? PCRE2_NOTEMPTY_ATSTART : 0);
  }
}

bool PythonRegex::search(std::string_view text) const {
  bool found = false;
  const std::string plain = code_->ignore_case ? plain_i(text) : std::string();
  for_each(code_->ignore_case ? plain : text, [&](std::string_view, std::string_view) {
    found = true;
    return false;
  });
  return found;
}

std::size_t PythonRegex::count(std::string_view text) const {
  std::size_t n = 0;
  const std::string plain = code_->ignore_case ? plain_i(text) : std::string();
  for_each(code_->ignore_case ? plain : text, [&](std::string_view, std::string_view) {
    ++n;
    return true;
  });
  return n;
}

std::vector<std::string_view> PythonRegex::find_all(std::string_view text) const {
  std::vector<std::string_view> out;
  for_each(text, [&](std::string_view match, std::string_view) {
    out.push_back(match);
    return true;
  });
  return out;
}

std::optional<std::string> PythonRegex::last_group(std::string_view text) const {
  std::optional<std::string> last;
  for_each(text, [&](std::string_view, std::string_view group) {
    last = group;
    return true;
  });
  return last;
}

std::vector<std::string_view> PythonRegex::split(std::string_view text) const {
  std::vector<std::string_view> out;
  const char* begin = text.data();
  for_each(text, [&](std::string_view match, std::string_view) {
    out.emplace_back(begin, static_cast<std::size_t>(match.data() - begin));
    begin = match.data() + match.size();
    return true;
  });
  out.emplace_back(begin, static_cast<std::size_t>(text.data() + text.size() - begin));
  return out;
}

}  // namespace qad::score
