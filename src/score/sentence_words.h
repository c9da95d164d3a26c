// English words as the Penn Treebank cuts them, by the rules of nltk.word_tokenize: punctuation,
// quotes and brackets stand alone, and so do clitics: DO N'T, I 'M, HE 'S, CAN NOT.
#pragma once

#include <string_view>
#include <vector>

namespace qad::score {

// The words of one sentence (UTF-8), in order. Quotes stay as written (NLTK makes `` and '' of
// them).
std::vector<std::string_view> treebank_words(std::string_view sentence);

}  // namespace qad::score
