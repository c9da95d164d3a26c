// CSV (RFC 4180): records of fields, the first record their names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qad {

// Fields may be quoted with ", inside which "" is one; records end with LF or CRLF, but inside
// quotes. Empty lines are passed over. Error "[parse_csv] WHERE: line N: ..." for a quote that does
// not end, text behind one, and a record with another number of fields than the first.
std::vector<std::vector<std::string>> parse_csv(std::string_view text, std::string_view where);

}  // namespace qad
