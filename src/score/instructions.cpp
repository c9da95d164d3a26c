// The table of instructions, and the eight variants of a response that loose scoring tries.
#include "score/instructions.h"

#include <algorithm>
#include <iterator>

#include "core/error.h"
#include "score/instruction_checks.h"
#include "text/jinja_text.h"
#include "text/tokenizer_utf8.h"

namespace qad::score {
namespace {

struct Kind {
  std::string_view id;
  CheckMaker make;
  bool exact = true;
};

constexpr Kind kKinds[] = {
    {"keywords:existence", keyword_existence},
    {"keywords:frequency", keyword_frequency},
    {"keywords:forbidden_words", forbidden_words},
    {"keywords:letter_frequency", letter_frequency},
    {"language:response_language", response_language, false},
    {"length_constraints:number_sentences", number_sentences, false},
    {"length_constraints:number_paragraphs", number_paragraphs},
    {"length_constraints:number_words", number_words},
    {"length_constraints:nth_paragraph_first_word", nth_paragraph_first_word},
    {"detectable_content:number_placeholders", number_placeholders},
    {"detectable_content:postscript", postscript},
    {"detectable_format:number_bullet_lists", number_bullet_lists},
    {"detectable_format:constrained_response", constrained_response},
    {"detectable_format:number_highlighted_sections", highlighted_sections},
    {"detectable_format:multiple_sections", multiple_sections},
    {"detectable_format:json_format", json_format},
    {"detectable_format:title", title},
    {"combination:two_responses", two_responses},
    {"combination:repeat_prompt", repeat_prompt},
    {"startend:end_checker", end_checker},
    {"startend:quotation", quotation},
    {"change_case:capital_word_frequency", capital_word_frequency, false},
    {"change_case:english_capital", english_capital, false},
    {"change_case:english_lowercase", english_lowercase, false},
    {"punctuation:no_comma", no_comma},
};

const Kind& kind_of(std::string_view id) {
  const auto* kind =
      std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& k) { return k.id == id; });
  check(kind != std::end(kKinds), "instructions",
        "instruction_id_list: expected ids of IFEval such as {}, found \"{}\"", kKinds[0].id, id);
  return *kind;
}

const Json& argument(const Arguments& arguments, const char* name) {
  const auto found = arguments.kwargs.find(name);
  check(found != arguments.kwargs.end() && !found->is_null(), "instructions",
        "{}: expected the argument {} in kwargs, found {}", arguments.id, name,
        arguments.kwargs.dump());
  return *found;
}

bool is_blank(std::string_view s) {
  return text::jinja::strip(s, "", 3).empty();
}

// What loose scoring also accepts: seven variants, those that are blank left out.
std::vector<std::string> loose_variants(std::string_view response) {
  const std::size_t first = response.find('\n'), last = response.rfind('\n');
  const bool one_line = first == response.npos;
  std::vector<std::string> variants;
  const auto add = [&](std::string_view variant) {
    std::string plain(variant);
    std::erase(plain, '*');
    for (std::string s : {std::string(variant), std::move(plain)})
      if (!is_blank(s)) variants.push_back(std::move(s));
  };
  add(response);
  if (!one_line) {
    add(text::jinja::strip(response.substr(first + 1), "", 3));
    add(text::jinja::strip(response.substr(0, last), "", 3));
    if (first < last) add(text::jinja::strip(response.substr(first + 1, last - first - 1), "", 3));
  }
  return variants;
}

}  // namespace

std::string Arguments::text(const char* name) const {
  const Json& value = argument(*this, name);
  check(value.is_string(), "instructions", "{}: {}: expected a string, found {}", id, name,
        value.dump());
  return value.get<std::string>();
}

std::vector<std::string> Arguments::texts(const char* name) const {
  const Json& value = argument(*this, name);
  const bool strings = value.is_array() && std::all_of(value.begin(), value.end(),
                                                       [](auto& v) { return v.is_string(); });
  check(strings, "instructions", "{}: {}: expected a list of strings, found {}", id, name,
        value.dump());
  return value.get<std::vector<std::string>>();
}

long long Arguments::number(const char* name) const {
  const Json& value = argument(*this, name);
  check(value.is_number_integer(), "instructions", "{}: {}: expected an integer, found {}", id,
        name, value.dump());
  return value.get<long long>();
}

std::function<bool(std::size_t)> Arguments::relation(const char* relation_name,
                                                     const char* number_name) const {
  const std::string relation = text(relation_name);
  const long long threshold = number(number_name);
  check(relation == "less than" || relation == "at least", "instructions",
        "{}: {}: expected \"less than\" or \"at least\", found \"{}\"", id, relation_name,
        relation);
  return [less = relation == "less than", threshold](std::size_t count) {
    return (static_cast<long long>(count) < threshold) == less;
  };
}

std::vector<InstructionVerdict> check_instructions(const Json& problem, std::string_view response) {
  const Json none = Json::array();
  const auto list = [&](const char* name) -> const Json& {
    const auto found = problem.find(name);
    check(found != problem.end() && found->is_array(), "instructions",
          "expected a list {} in the problem", name);
    return *found;
  };
  const Json &ids = list("instruction_id_list"), &kwargs = list("kwargs");
  check(ids.size() == kwargs.size(), "instructions",
        "kwargs: expected one entry for each of {} instructions, found {}", ids.size(),
        kwargs.size());

  const std::string text = text::lossy_utf8(response);
  const std::vector<std::string> variants =
      is_blank(text) ? std::vector<std::string>() : loose_variants(text);
  std::vector<InstructionVerdict> verdicts;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    check(ids[i].is_string() && kwargs[i].is_object(), "instructions",
          "entry {}: expected an id and an object of arguments, found {} and {}", i, ids[i].dump(),
          kwargs[i].dump());
    const std::string id = ids[i].get<std::string>();
    const Check follows = kind_of(id).make({id, kwargs[i]});
    const bool strict = !is_blank(text) && follows(text);
    verdicts.push_back(
        {id, strict, strict || std::any_of(variants.begin(), variants.end(), follows)});
  }
  return verdicts;
}

bool is_exact(std::string_view id) {
  return kind_of(id).exact;
}

}  // namespace qad::score
