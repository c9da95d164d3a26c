// The n-grams of a text, after langdetect's normalisation: letters that tell languages apart stay,
// scripts that tell them by themselves (kana, Hangul) become one letter, the rest becomes a space.
#pragma once

#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace qad::score {

using NGram = std::uint64_t;  // up to three code points of 21 bits, the last one lowest

// Ideographs that count as another one.
using Ideographs = std::unordered_map<char32_t, char32_t>;

// The n-grams of one, two and three letters in order, with repetitions. Addresses of the web and of
// mail are left out, and Latin letters where they are the minority. `text` is UTF-8.
std::vector<NGram> ngrams(std::string_view text, const Ideographs& ideographs);

}  // namespace qad::score
