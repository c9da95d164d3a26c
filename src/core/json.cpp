// The document is built from parser events rather than by Json::parse: that would keep the last of
// two equal keys, follow any nesting, and look for each new key among all earlier ones, which takes
// a vocabulary of 128k entries half a minute.
#include "core/json.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"

namespace qad {
namespace {

constexpr std::size_t kMaxDepth = 256;
constexpr std::string_view kNonFinite[] = {"-Infinity", "Infinity", "NaN"};

// Python's json module writes non-finite floats as bare words; nlohmann::json refuses them. As
// values outside strings they become strings of the same letters, which the few readers that allow
// them understand.
std::string quote_non_finite(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 64);
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
    const auto* word =
        std::find_if(std::begin(kNonFinite), std::end(kNonFinite),
                     [&](std::string_view w) { return text.substr(i, w.size()) == w; });
    if (word == std::end(kNonFinite)) {
      out += text[i++];
      continue;
    }
    i += word->size();
    const std::size_t next = text.find_first_not_of(" \t\r\n", i);
    const bool is_key = next != text.npos && text[next] == ':';
    out += is_key ? std::string(*word) : fmt::format("\"{}\"", *word);
  }
  return out;
}

class Builder final : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(std::string_view where) : where_(where) {}

  Json take() { return std::move(root_); }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // not in JSON text

  bool start_object(std::size_t) override { return push(Json::object()); }
  bool start_array(std::size_t) override { return push(Json::array()); }
  bool end_array() override { return pop(); }

  bool key(string_t& value) override {
    members().emplace_back(std::move(value), Json());
    return true;
  }

  bool end_object() override {
    std::vector<std::string_view> keys;
    keys.reserve(members().size());
    for (const auto& [key, value] : members()) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    check(twice == keys.end(), "parse_json", "{}: duplicate key \"{}\"", where_,
          twice == keys.end() ? std::string_view() : *twice);
    return pop();
  }

  bool parse_error(std::size_t byte, const std::string&, const Json::exception& e) override {
    fail("parse_json", "{}: {} (at byte {})", where_, e.what(), byte);
  }

 private:
  Json::object_t& members() { return open_.back()->get_ref<Json::object_t&>(); }

  // Where a value belongs: the document, the array being filled, or the key just read.
  Json& place(Json value) {
    if (open_.empty()) return root_ = std::move(value);
    if (open_.back()->is_array()) return open_.back()->emplace_back(std::move(value));
    return members().back().second = std::move(value);
  }
  bool put(Json value) {
    place(std::move(value));
    return true;
  }
  bool push(Json container) {
    check(open_.size() < kMaxDepth, "parse_json", "{}: nested deeper than {} levels", where_,
          kMaxDepth);
    open_.push_back(&place(std::move(container)));
    return true;
  }
  bool pop() {
    open_.pop_back();
    return true;
  }

  std::string_view where_;
  Json root_;
  std::vector<Json*> open_;  // stable: a container grows only while its children are complete
};

}  // namespace

Json parse_json(std::string_view text, std::string_view where) {
  const std::size_t nul = text.find('\0');  // for the parser the end of its input
  check(nul == text.npos, "parse_json", "{}: unexpected zero byte (at byte {})", where, nul + 1);
  Builder builder(where);
  if (text.find("Infinity") != text.npos || text.find("NaN") != text.npos) {
    Json::sax_parse(quote_non_finite(text), &builder);
  } else {
    Json::sax_parse(text.begin(), text.end(), &builder);
  }
  return builder.take();
}

Json read_json(const fs::path& path) {
  return parse_json(MappedFile(path).text(), path.string());
}

std::string to_text(const Json& json) {
  std::string text;
  try {
    text = json.dump(2) + "\n";
  } catch (const Json::type_error& e) {
    fail("write_json", "{}", e.what());  // a string that is not UTF-8
  }
  for (const std::string_view word : kNonFinite) {
    const std::string quoted = fmt::format("\"{}\"", word);
    for (std::size_t at = 0; (at = text.find(quoted, at)) != text.npos;) {
      const std::size_t end = at + quoted.size();
      // Transformers tags a float that is not finite, {"__float__": "Infinity"}, and wants the word
      // there as a string.
      const bool tagged = std::string_view(text).substr(0, at).ends_with("\"__float__\": ");
      const bool whole = !tagged && text[at - (at > 0)] != '\\' && text[end] != ':';
      if (whole) text.replace(at, quoted.size(), word);
      at = whole ? at + word.size() : end;
    }
  }
  return text;
}

}  // namespace qad
