// What all pages share, and tables for the terminal.
#pragma once

#include <string>
#include <vector>

namespace qad::report {

// A whole page around `body`, which is HTML; `title` is text.
std::string page(const std::string& title, const std::string& body);

// Lines of equal numbers of cells, the first line their heads: the first column to the left, the
// others to the right. Every character is taken to be one column wide.
std::string text_table(const std::vector<std::vector<std::string>>& lines);

}  // namespace qad::report
