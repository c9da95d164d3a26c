// Python's text rules: code points, white space, case, quoting, numbers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qad::text::jinja {

std::vector<std::string_view> code_points(std::string_view utf8);
std::size_t length(std::string_view utf8);  // in code points
std::string lower(std::string_view utf8);
std::string upper(std::string_view utf8);  // one code point to one (ß stays ß)
bool is_upper(std::string_view utf8);  // str.isupper(): letters of this case alone, at least one
bool is_lower(std::string_view utf8);
std::string capitalize(std::string_view utf8);
std::string title(std::string_view utf8);
bool is_space(std::string_view code_point);
// chars empty: white space. sides: 1 left, 2 right, 3 both.
std::string_view strip(std::string_view text, std::string_view chars, int sides);
std::string python_float(double value);           // repr(): 1e+16, 0.1, 1.0, inf
std::string python_quote(std::string_view utf8);  // repr()
std::string json_quote(std::string_view utf8, bool ensure_ascii);
std::string html_escape(std::string_view text);
std::string replace_all(std::string_view text, std::string_view from, std::string_view to,
                        long long count);
// Python's literal escapes: \n, \x41, \u00e9, octal, line continuation. Unknown ones stay.
std::string unescape(std::string_view literal);

}  // namespace qad::text::jinja
