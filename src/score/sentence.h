// English sentences, as the Punkt tokenizer of NLTK finds them (Kiss and Strunk, "Unsupervised
// Multilingual Sentence Boundary Detection", Computational Linguistics 32, 2006), with its way of
// deciding and lists of our own for what its model learnt from newspapers.
#pragma once

#include <string_view>
#include <vector>

namespace qad::score {

// The sentences of `text` (UTF-8), in order, without the white space around them.
std::vector<std::string_view> sentences(std::string_view text);

}  // namespace qad::score
