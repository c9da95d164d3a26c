// A SAX pass refuses what the DOM parser would silently accept: duplicate keys and bottomless nesting.
#include "core/json.h"

#include <set>
#include <vector>

#include "core/error.h"

namespace qad {
namespace {

constexpr std::size_t kMaxDepth = 256;

// Python's json module writes non-finite floats as bare words; nlohmann::json refuses them. Outside strings
// they become strings of the same letters, which the few readers that allow them understand.
std::string quote_non_finite(std::string_view text) {
  std::string out;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\' && i + 1 < text.size()) out += text[i++];
      if (c == '"') in_string = false;
      out += text[i++];
      continue;
    }
    if (c == '"') in_string = true;
    bool replaced = false;
    for (const std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
      if (text.substr(i, word.size()) != word) continue;
      out.append("\"").append(word).append("\"");
      i += word.size();
      replaced = true;
      break;
    }
    if (!replaced) out += text[i++];
  }
  return out;
}

Json parse_strict(std::string_view text, std::string_view where) {
  std::vector<std::set<std::string>> keys;
  std::size_t depth = 0;
  const auto callback = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) {
      check(++depth <= kMaxDepth, "parse_json", "{}: nested deeper than {} levels", where, kMaxDepth);
      keys.emplace_back();
    } else if (event == Json::parse_event_t::object_end || event == Json::parse_event_t::array_end) {
      --depth;
      keys.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      check(keys.back().insert(key).second, "parse_json", "{}: duplicate key \"{}\"", where, key);
    }
    return true;
  };
  return Json::parse(text.begin(), text.end(), callback);
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where) {
  try {
    if (text.find("Infinity") != text.npos || text.find("NaN") != text.npos)
      return parse_strict(quote_non_finite(text), where);
    return parse_strict(text, where);
  } catch (const Json::parse_error& e) {
    fail("parse_json", "{}: {} (byte {} of {})", where, e.what(), e.byte, text.size());
  }
}

Json read_json(const fs::path& path) {
  return parse_json(MappedFile(path).text(), path.string());
}

}  // namespace qad
