// UTF-8 and the few Unicode properties that tokenizers ask for, with the meanings Rust's standard
// library gives them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace qad::text {

// Bytes of the valid sequence at s[i], or 0 when it is malformed; then `bad` is the length of the
// maximal subpart that one U+FFFD stands for.
std::size_t utf8_length(std::string_view s, std::size_t i, std::size_t& bad);
bool valid_utf8(std::string_view s);
// Malformed parts become U+FFFD, as Rust's String::from_utf8_lossy does.
std::string lossy_utf8(std::string_view s);

// The functions below expect valid UTF-8.
inline std::size_t utf8_size(unsigned char lead) {
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}
char32_t decode_utf8(std::string_view s, std::size_t i);
void append_utf8(std::string& out, char32_t c);

bool is_white_space(char32_t c);  // White_Space
bool is_numeric(char32_t c);      // N
bool is_punctuation(char32_t c);  // P, and the ASCII symbols
bool is_mark(char32_t c);         // M
bool is_word(char32_t c);         // \w of Rust's regex crate

// All places of `from` (not empty) in `s` become `to`.
void replace_all(std::string& s, std::string_view from, std::string_view to);

}  // namespace qad::text
