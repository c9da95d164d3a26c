// Instructions about form: bullets, highlights, sections, JSON, titles, what stands at the start
// and the end. Patterns whose search could take quadratic time on a degenerate response (thousands
// of blank lines or of opening brackets) are scanned for by hand.
#include <algorithm>
#include <iterator>

#include "core/error.h"
#include "score/instruction_checks.h"
#include "score/instruction_regex.h"
#include "text/jinja_text.h"

namespace qad::score {
namespace {

using text::jinja::lower;

std::string_view trimmed(std::string_view s) {
  return text::jinja::strip(s, "", 3);
}

// The position after the white space that starts at `at`.
std::size_t skip_space(std::string_view s, std::size_t at) {
  while (at < s.size()) {
    std::size_t size = 1;
    while (at + size < s.size() && (static_cast<unsigned char>(s[at + size]) & 0xC0) == 0x80)
      ++size;
    if (!text::jinja::is_space(s.substr(at, size))) break;
    at += size;
  }
  return at;
}

std::size_t end_of_line(std::string_view s, std::size_t at) {
  return std::min(s.find('\n', at), s.size());
}

// Matches of ^\s*-.*$ by lines, or for '*' of ^\s*\*[^\*].*$, whose second character may also be
// the end of the line.
std::size_t count_bullets(std::string_view s, char mark) {
  std::size_t count = 0;
  for (std::size_t line = 0; line <= s.size();) {
    std::size_t at = skip_space(s, line);  // where every line of a run of blank ones leads
    if (at >= s.size()) break;
    bool found = s[at++] == mark;
    if (found && mark == '*') found = at < s.size() && s[at++] != '*';
    count += found;
    // The line after the one that a match ends in; a match may end just where a line begins.
    if (found && (at = end_of_line(s, at)) > 0 && s[at - 1] == '\n')
      line = at;
    else
      line = end_of_line(s, found ? at : at - 1) + 1;
  }
  return count;
}

// Matches of \[.*?\].
std::size_t count_placeholders(std::string_view s) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = s.find('[', at)) != s.npos;) {
    at = s.find_first_of("]\n", at);
    if (at == s.npos) break;
    count += s[at] == ']';
  }
  return count;
}

// Some match of <<[^\n]+>> has content besides its brackets. A line has one match at most, from its
// first "<<" to its last ">>".
bool has_title(std::string_view s) {
  for (std::size_t line = 0; line < s.size();) {
    const std::size_t end = end_of_line(s, line);
    const std::string_view text = s.substr(line, end - line);
    const std::size_t open = text.find("<<"), close = text.rfind(">>");
    if (open != text.npos && close != text.npos && close > open + 2) {
      const std::string_view found = text.substr(open, close + 2 - open);
      if (!trimmed(text::jinja::strip(text::jinja::strip(found, "<", 1), ">", 2)).empty())
        return true;
    }
    line = end + 1;
  }
  return false;
}

std::string_view without_fence(std::string_view s) {
  s = trimmed(s);
  for (const std::string_view fence : {"```json", "```Json", "```JSON", "```"})
    if (s.starts_with(fence)) s.remove_prefix(fence.size());
  if (s.ends_with("```")) s.remove_suffix(3);
  return trimmed(s);
}

}  // namespace

Check number_placeholders(const Arguments& arguments) {
  const long long wanted = arguments.number("num_placeholders");
  return [=](std::string_view response) {
    return static_cast<long long>(count_placeholders(response)) >= wanted;
  };
}

Check postscript(const Arguments& arguments) {
  const std::string marker = arguments.text("postscript_marker");
  const std::string pattern = marker == "P.S."    ? "p\\.\\s?s\\."
                              : marker == "P.P.S" ? "p\\.\\s?p\\.\\s?s"
                                                  : lower(marker);
  try {
    return [regex = PythonRegex(pattern, PythonRegex::multiline)](std::string_view response) {
      return regex.search(lower(response));
    };
  } catch (const Error& e) {
    fail("instructions", "{}: postscript_marker \"{}\": expected a regular expression, found {}",
         arguments.id, marker, e.what());
  }
}

Check number_bullet_lists(const Arguments& arguments) {
  const long long wanted = arguments.number("num_bullets");
  return [=](std::string_view response) {
    return static_cast<long long>(count_bullets(response, '*') + count_bullets(response, '-')) ==
           wanted;
  };
}

Check constrained_response(const Arguments&) {
  return [](std::string_view response) {
    return response.find("My answer is yes.") != response.npos ||
           response.find("My answer is no.") != response.npos ||
           response.find("My answer is maybe.") != response.npos;
  };
}

Check highlighted_sections(const Arguments& arguments) {
  static const PythonRegex single("\\*[^\\n\\*]*\\*"), twice("\\*\\*[^\\n\\*]*\\*\\*");
  const long long wanted = arguments.number("num_highlights");
  return [=](std::string_view response) {
    long long highlights = 0;
    for (const auto found : single.find_all(response))
      highlights += !trimmed(found.substr(1, found.size() - 2)).empty();
    for (const auto found : twice.find_all(response))
      highlights += !trimmed(found.substr(2, found.size() - 4)).empty();
    return highlights >= wanted;
  };
}

Check multiple_sections(const Arguments& arguments) {
  const std::string splitter = arguments.text("section_spliter");  // as IFEval spells it
  const long long wanted = arguments.number("num_sections");
  try {
    const PythonRegex start("\\s?" + std::string(trimmed(splitter)) + "\\s?\\d+\\s?");
    return [=](std::string_view response) {
      return static_cast<long long>(start.count(response)) >= wanted;
    };
  } catch (const Error& e) {
    fail("instructions", "{}: section_spliter \"{}\": expected a regular expression, found {}",
         arguments.id, splitter, e.what());
  }
}

Check json_format(const Arguments&) {
  return [](std::string_view response) { return is_json(without_fence(response)); };
}

Check title(const Arguments&) {
  return has_title;
}

Check two_responses(const Arguments&) {
  return [](std::string_view response) {
    std::vector<std::string_view> answers;
    for (bool first = true;; first = false) {
      const std::size_t at = response.find("******");
      const std::string_view part = trimmed(response.substr(0, at));
      if (!part.empty())
        answers.push_back(part);
      else if (!first && at != response.npos)
        return false;
      if (at == response.npos) break;
      response.remove_prefix(at + 6);
    }
    return answers.size() == 2 && answers[0] != answers[1];
  };
}

Check repeat_prompt(const Arguments& arguments) {
  return [prompt = lower(trimmed(arguments.text("prompt_to_repeat")))](std::string_view response) {
    return lower(trimmed(response)).starts_with(prompt);
  };
}

Check end_checker(const Arguments& arguments) {
  return [phrase = lower(trimmed(arguments.text("end_phrase")))](std::string_view response) {
    return lower(text::jinja::strip(trimmed(response), "\"", 3)).ends_with(phrase);
  };
}

Check quotation(const Arguments&) {
  return [](std::string_view response) {
    response = trimmed(response);
    return response.size() > 1 && response.front() == '"' && response.back() == '"';
  };
}

}  // namespace qad::score
