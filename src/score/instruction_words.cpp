// Instructions about words: which occur and how often, in what language and case, in how many
// sentences and paragraphs.
#include <algorithm>

#include "core/error.h"
#include "score/instruction_checks.h"
#include "score/instruction_regex.h"
#include "score/language.h"
#include "score/sentence.h"
#include "score/sentence_words.h"
#include "text/jinja_text.h"

namespace qad::score {
namespace {

using text::jinja::lower;
using text::jinja::strip;

bool is_blank(std::string_view s) {
  return strip(s, "", 3).empty();
}

PythonRegex keyword_regex(std::string_view id, const std::string& keyword, const char* around) {
  try {
    return PythonRegex(around + keyword + around, PythonRegex::ignore_case);
  } catch (const Error& e) {
    fail("instructions", "{}: keyword \"{}\": expected a regular expression, found {}", id, keyword,
         e.what());
  }
}

std::string_view before_first_space(std::string_view s) {
  std::size_t end = 0;
  for (const std::string_view c : text::jinja::code_points(s)) {
    if (text::jinja::is_space(c)) break;
    end += c.size();
  }
  return s.substr(0, end);
}

// A text without letters has no language; that is not held against it.
bool is_in(std::string_view response, std::string_view language) {
  const std::string found = detect_language(response);
  return found.empty() || found == language;
}

}  // namespace

Check keyword_existence(const Arguments& arguments) {
  std::vector<PythonRegex> keywords;
  for (const std::string& keyword : arguments.texts("keywords"))
    keywords.push_back(keyword_regex(arguments.id, keyword, ""));
  return [keywords](std::string_view response) {
    return std::all_of(keywords.begin(), keywords.end(),
                       [&](const PythonRegex& keyword) { return keyword.search(response); });
  };
}

Check keyword_frequency(const Arguments& arguments) {
  const std::string keyword = arguments.text("keyword");
  const PythonRegex regex = keyword_regex(arguments.id, std::string(strip(keyword, "", 3)), "");
  const auto holds = arguments.relation("relation", "frequency");
  return [=](std::string_view response) { return holds(regex.count(response)); };
}

Check forbidden_words(const Arguments& arguments) {
  std::vector<PythonRegex> words;
  for (const std::string& word : arguments.texts("forbidden_words"))
    words.push_back(keyword_regex(arguments.id, word, "\\b"));
  return [words](std::string_view response) {
    return std::none_of(words.begin(), words.end(),
                        [&](const PythonRegex& word) { return word.search(response); });
  };
}

Check letter_frequency(const Arguments& arguments) {
  const std::string letter = arguments.text("letter");
  check(text::jinja::length(letter) == 1, "instructions",
        "{}: letter: expected one character, found \"{}\"", arguments.id, letter);
  const auto holds = arguments.relation("let_relation", "let_frequency");
  return [holds, wanted = lower(letter)](std::string_view response) {
    const std::string text = lower(response);
    std::size_t count = 0;
    for (std::size_t at = 0; (at = text.find(wanted, at)) != text.npos; at += wanted.size())
      ++count;
    return holds(count);
  };
}

Check number_words(const Arguments& arguments) {
  static const PythonRegex word("\\w+");
  const auto holds = arguments.relation("relation", "num_words");
  return [=](std::string_view response) { return holds(word.count(response)); };
}

Check number_sentences(const Arguments& arguments) {
  const auto holds = arguments.relation("relation", "num_sentences");
  return [=](std::string_view response) { return holds(sentences(response).size()); };
}

Check number_paragraphs(const Arguments& arguments) {
  static const PythonRegex divider("\\s?\\*\\*\\*\\s?");
  const long long wanted = arguments.number("num_paragraphs");
  return [=](std::string_view response) {
    const auto parts = divider.split(response);
    long long paragraphs = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const bool blank = is_blank(parts[i]);
      if (blank && i > 0 && i + 1 < parts.size()) return false;
      paragraphs += !blank;
    }
    return paragraphs == wanted;
  };
}

Check nth_paragraph_first_word(const Arguments& arguments) {
  const long long wanted = arguments.number("num_paragraphs");
  const long long nth = arguments.number("nth_paragraph");
  check(nth >= 1, "instructions", "{}: nth_paragraph: expected 1 or more, found {}", arguments.id,
        nth);
  return [=, first_word = lower(arguments.text("first_word"))](std::string_view response) {
    std::vector<std::string_view> parts;
    for (std::size_t at; (at = response.find("\n\n")) != response.npos;
         response.remove_prefix(at + 2))
      parts.push_back(response.substr(0, at));
    parts.push_back(response);
    const auto paragraphs =
        static_cast<long long>(parts.size() - static_cast<std::size_t>(std::count_if(
                                                  parts.begin(), parts.end(), is_blank)));
    if (paragraphs != wanted || nth > paragraphs) return false;
    // The nth part, blank ones included: that is how IFEval counts here.
    const std::string_view paragraph = strip(parts[static_cast<std::size_t>(nth - 1)], "", 3);
    std::string_view word = strip(strip(before_first_space(paragraph), "'", 1), "\"", 1);
    word = word.substr(0, word.find_first_of(".,?!'\""));
    return !paragraph.empty() && lower(word) == first_word;
  };
}

Check response_language(const Arguments& arguments) {
  const std::string language = arguments.text("language");
  check(is_detectable(language), "instructions",
        "{}: language: expected a code that is known (en, zh-cn, ...), found \"{}\"", arguments.id,
        language);
  return [=](std::string_view response) { return is_in(response, language); };
}

Check english_capital(const Arguments&) {
  return [](std::string_view response) {
    return text::jinja::is_upper(response) && is_in(response, "en");
  };
}

Check english_lowercase(const Arguments&) {
  return [](std::string_view response) {
    return text::jinja::is_lower(response) && is_in(response, "en");
  };
}

Check capital_word_frequency(const Arguments& arguments) {
  const auto holds = arguments.relation("capital_relation", "capital_frequency");
  return [=](std::string_view response) {
    std::size_t count = 0;
    for (const std::string_view sentence : sentences(response)) {
      const auto words = treebank_words(sentence);
      count += static_cast<std::size_t>(
          std::count_if(words.begin(), words.end(), text::jinja::is_upper));
    }
    return holds(count);
  };
}

Check no_comma(const Arguments&) {
  return [](std::string_view response) { return response.find(',') == response.npos; };
}

}  // namespace qad::score
