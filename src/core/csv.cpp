// One pass over the bytes.
#include "core/csv.h"

#include "core/error.h"

namespace qad {

std::vector<std::vector<std::string>> parse_csv(std::string_view text, std::string_view where) {
  std::vector<std::vector<std::string>> records;
  std::vector<std::string> record;
  std::size_t at = 0, line = 1;
  if (text.starts_with("\xEF\xBB\xBF")) at = 3;  // a byte order mark, as spreadsheets write it
  const auto ends = [&] { return at == text.size() || text[at] == '\n' || text[at] == '\r'; };
  while (at < text.size()) {
    std::string field;
    const std::size_t begun = line;
    const bool quoted = text[at] == '"';
    if (quoted) {
      for (++at;; ++at) {
        check(at < text.size(), "parse_csv", "{}: line {}: a quote does not end", where, begun);
        if (text[at] == '"' && !(at + 1 < text.size() && text[at + 1] == '"')) break;
        if (text[at] == '"') ++at;
        if (text[at] == '\n') ++line;
        field += text[at];
      }
      ++at;
      check(ends() || text[at] == ',', "parse_csv",
            "{}: line {}: expected a comma or the end of the line behind a quoted field", where,
            line);
    } else {
      while (!ends() && text[at] != ',') field += text[at++];
    }
    const bool empty_line = record.empty() && field.empty() && !quoted && ends();
    if (!empty_line) record.push_back(std::move(field));
    if (at < text.size() && text[at] == ',') {
      ++at;
      if (at < text.size()) continue;
      record.emplace_back();
    }
    while (at < text.size() && (text[at] == '\r' || text[at] == '\n')) line += text[at++] == '\n';
    if (record.empty()) continue;
    check(records.empty() || record.size() == records[0].size(), "parse_csv",
          "{}: line {}: expected {} fields as in the first record, found {}", where, begun,
          records.empty() ? 0 : records[0].size(), record.size());
    records.push_back(std::move(record));
    record.clear();
  }
  return records;
}

}  // namespace qad
