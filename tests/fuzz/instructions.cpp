// Any bytes as a keyword, a marker and a response: verdicts or Error, within bounded work.
#include "score/instructions.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/error.h"
#include "score/language.h"
#include "text/tokenizer_utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const qad::Json plain = qad::parse_json(
      R"({"instruction_id_list": ["length_constraints:number_sentences", "length_constraints:number_paragraphs",
          "length_constraints:nth_paragraph_first_word", "detectable_content:number_placeholders",
          "detectable_format:number_bullet_lists", "detectable_format:number_highlighted_sections",
          "detectable_format:json_format", "detectable_format:title", "combination:two_responses",
          "change_case:capital_word_frequency"],
          "kwargs": [{"relation": "at least", "num_sentences": 2}, {"num_paragraphs": 2},
          {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "a"}, {"num_placeholders": 1}, {"num_bullets": 1},
          {"num_highlights": 1}, {}, {}, {},
          {"capital_relation": "at least", "capital_frequency": 1}]})",
      "fuzz");
  const std::string text(reinterpret_cast<const char*>(data), size);
  qad::score::check_instructions(plain, text);
  qad::score::detect_language(qad::text::lossy_utf8(text));  // once is slow enough
  // A line of keyword, the rest is the response.
  const std::size_t end = std::min(text.find('\n'), text.size());
  const std::string keyword = qad::text::lossy_utf8(text.substr(0, end));
  const qad::Json keywords = {
      {"instruction_id_list",
       {"keywords:frequency", "keywords:forbidden_words", "detectable_content:postscript",
        "detectable_format:multiple_sections"}},
      {"kwargs",
       {{{"keyword", keyword}, {"relation", "at least"}, {"frequency", 1}},
        {{"forbidden_words", qad::Json::array({keyword})}},
        {{"postscript_marker", keyword}},
        {{"section_spliter", keyword}, {"num_sections", 1}}}}};
  try {
    qad::score::check_instructions(keywords, text.substr(end));
  } catch (const qad::Error&) {
  }
  return 0;
}
