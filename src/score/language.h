// The language of a text, as the Python package langdetect tells it (naive Bayes over n-grams of
// one to three letters, 55 languages; Shuyo 2010): the same n-grams, profiles and smoothing.
//
// langdetect draws n-grams of the text at random until one language has nearly all probability, and
// takes the mean of seven such draws, each with a smoothing drawn at random. Here 64 draws go
// through the text in steps of the golden ratio, which spread evenly, with the mean smoothing:
// close to the same means, without chance.
#pragma once

#include <string>
#include <string_view>

namespace qad::score {

// The ISO 639-1 code of the likeliest language ("en", "zh-cn", ...), or "" where the text has no
// n-gram that any profile knows (numbers, symbols), for which langdetect raises an error. `text`
// is UTF-8; the first 10,000 characters count.
std::string detect_language(std::string_view text);

// Whether detect_language can answer `code`.
bool is_detectable(std::string_view code);

}  // namespace qad::score
