// What bench/instructions_peer.py compares with langdetect and NLTK. Reads lines of JSON strings,
// writes for each its language, its sentences and its words of capitals.
#include <algorithm>
#include <iostream>
#include <string>

#include "core/json.h"
#include "score/language.h"
#include "score/sentence.h"
#include "score/sentence_words.h"
#include "text/jinja_text.h"

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    const std::string text = qad::parse_json(line, "stdin").get<std::string>();
    std::size_t capitals = 0;
    const auto sentences = qad::score::sentences(text);
    for (const auto sentence : sentences) {
      const auto words = qad::score::treebank_words(sentence);
      capitals += static_cast<std::size_t>(
          std::count_if(words.begin(), words.end(), qad::text::jinja::is_upper));
    }
    std::cout << qad::Json{{"language", qad::score::detect_language(text)},
                           {"sentences", sentences},
                           {"capitals", capitals}}
                     .dump()
              << "\n";
  }
}
