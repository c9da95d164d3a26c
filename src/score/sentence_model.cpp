// The lists are ours, Punkt's own were learnt from the Wall Street Journal: common abbreviations of
// which it knows each ("etc." and "i.e." it does not know), and words from counts over the chats
// and stories in data/.
#include "score/sentence_model.h"

#include <algorithm>
#include <unordered_set>

#include "score/instruction_regex.h"
#include "text/jinja_text.h"
#include "text/tokenizer_utf8.h"

namespace qad::score {
namespace {

using Words = std::unordered_set<std::string_view>;

Words split(std::string_view list) {
  Words words;
  while (!list.empty()) {
    const std::size_t begin = list.find_first_not_of(" \n");
    if (begin == list.npos) break;
    list.remove_prefix(begin);
    const std::size_t end = std::min(list.find_first_of(" \n"), list.size());
    words.insert(list.substr(0, end));
    list.remove_prefix(end);
  }
  return words;
}

// Without the last period, in lower case. Single letters are initials of names.
const Words& abbreviations() {
  static const Words words = split(R"(
c d e f g h k l m n p r s t v w
a.c a.d a.m adm ala ariz aug ave b.v bros c.v calif co col colo conn corp ct d.c dec dr feb fla fri ft ga gen ill inc jan
jr kan ky l.a l.p lt ltd m.b.a maj messrs mich minn mr mrs ms n.c n.d n.h n.j n.m n.v n.y nev nov oct ok okla ore p.m pa
ph.d prof r.i rep s.a s.c s.p.a sen sep sept sr st tenn tues u.k u.n u.s u.s.a u.s.s.r va vs vt w.va wash wed wis yr)");
  return words;
}

// Words that begin many sentences.
const Words& starters() {
  static const Words words = split(R"(
a after all also although an and another as at because but by during each even every few first for from he her here his
however i if in indeed instead it its many meanwhile more moreover most my no nor not now of on once one our she since
so some such that the their then there these they this those though to under until we what when where while who why
with yet you your)");
  return words;
}

// Whether a word is one that sentences write small.
bool is_small_word(std::string_view type) {
  static const Words words = split(
#include "score/sentence_words.inc"
  );
  return words.count(type) > 0 || starters().count(type) > 0;
}

std::string_view without_period(std::string_view type) {
  return type.size() > 1 && type.back() == '.' ? type.substr(0, type.size() - 1) : type;
}

std::string_view first_letter(std::string_view s) {
  return s.substr(0, text::utf8_size(static_cast<unsigned char>(s[0])));
}

enum class Answer { no, yes, unknown };

// Whether `next` starts a sentence, by its first letter alone (4.1.1).
Answer starts_by_case(const Token& next, std::string_view type) {
  if (next.text.size() == 1 && std::string_view(";:,.!?").find(next.text) != std::string_view::npos)
    return Answer::no;
  const std::string_view letter = first_letter(next.text);
  if (text::jinja::is_upper(letter)) return is_small_word(type) ? Answer::yes : Answer::unknown;
  return text::jinja::is_lower(letter) ? Answer::no : Answer::unknown;
}

}  // namespace

Token mark(std::string_view token) {
  static const PythonRegex number("^-?[\\.,]?\\d[\\d,\\.-]*\\.?$");
  static const PythonRegex initial("^[^\\W\\d]\\.$");
  Token out;
  out.text = token;
  out.type = number.search(token) ? "##number##" : text::jinja::lower(token);
  out.is_initial = initial.search(token);
  if (token == "." || token == "?" || token == "!") {
    out.ends_sentence = true;
  } else if (token.size() > 1 && token.find_first_not_of('.') == token.npos) {
    out.is_ellipsis = true;
  } else if (token.ends_with('.') && !token.ends_with("..")) {
    const std::string word = text::jinja::lower(token.substr(0, token.size() - 1));
    out.is_abbreviation = abbreviations().count(word) > 0 ||
                          abbreviations().count(word.substr(word.rfind('-') + 1)) > 0;
    out.ends_sentence = !out.is_abbreviation;
  }
  return out;
}

void correct(Token& token, const Token& next) {
  if (!token.text.ends_with('.')) return;
  const std::string_view type =
      next.ends_sentence ? without_period(next.type) : std::string_view(next.type);
  const Answer starts = starts_by_case(next, type);
  const bool upper = text::jinja::is_upper(first_letter(next.text));
  if ((token.is_abbreviation || token.is_ellipsis) && !token.is_initial &&
      (starts == Answer::yes || (upper && starters().count(type) > 0)))
    token.ends_sentence = true;
  if (token.is_initial || token.type == "##number##") {
    if (starts == Answer::no) token.ends_sentence = false;
    if (starts == Answer::unknown && token.is_initial && upper && !is_small_word(type))
      token.ends_sentence = false;
  }
}

}  // namespace qad::score
