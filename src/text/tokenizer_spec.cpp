// One SAX pass; a vocabulary that is no object (Unigram has a list) stays in the JSON, where the
// check of model.type will name it.
#include "text/tokenizer_spec.h"

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace qad::text {
namespace {

constexpr std::size_t kMaxDepth = 256;

TokenId token_id(std::int64_t id, std::string_view token) {
  check(id >= 0 && id < std::numeric_limits<TokenId>::max() / 2, "tokenizer",
        "token \"{}\": expected an id of at most 2^30, found {}", token, id);
  return static_cast<TokenId>(id);
}

struct Reader {
  TokenizerSpec spec;
  std::string_view where;

  // nlohmann's SAX interface.
  bool null() { return value(nullptr); }
  bool boolean(bool v) { return value(v); }
  bool number_integer(std::int64_t v) { return number(v); }
  bool number_unsigned(std::uint64_t v) {
    if (list_ == List::none) return value(v);
    return number(std::int64_t(std::min(v, std::uint64_t{1} << 40)));
  }
  bool number_float(double v, const std::string&) { return value(v); }
  bool binary(Json::binary_t&) { return false; }
  bool string(std::string& v) {
    if (list_ == List::merges) {
      if (depth_ == list_depth_)
        spec.merges.push_back(split_merge(v));
      else
        pair_.push_back(std::move(v));
      return true;
    }
    return value(std::move(v));
  }
  bool key(std::string& k) {
    key_ = std::move(k);
    if (depth_ == 1) top_key_ = key_;
    return true;
  }
  bool start_object(std::size_t) {
    deeper();
    if (at("vocab")) {
      list_ = List::vocab;
      list_depth_ = depth_;
      return true;
    }
    check(list_ == List::none, "tokenizer", "{}: an object inside model.{}", where, key_);
    open(Json::object());
    return true;
  }
  bool start_array(std::size_t) {
    deeper();
    if (at("merges")) {
      list_ = List::merges;
      list_depth_ = depth_;
      return true;
    }
    check(list_ != List::vocab, "tokenizer", "{}: a list inside model.vocab", where);
    if (list_ == List::merges)
      check(depth_ == list_depth_ + 1, "tokenizer", "{}: lists too deep in model.merges", where);
    else
      open(Json::array());
    return true;
  }
  bool end_object() { return close(); }
  bool end_array() {
    if (list_ == List::merges && depth_ == list_depth_ + 1) {
      check(pair_.size() == 2, "tokenizer", "{}: merge {}: expected 2 strings, found {}", where,
            spec.merges.size(), pair_.size());
      spec.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
      pair_.clear();
      --depth_;
      return true;
    }
    return close();
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) {
    fail("tokenizer", "{}: {} (byte {})", where, e.what(), position);
  }

 private:
  enum class List { none, vocab, merges };

  bool at(std::string_view name) const {
    return list_ == List::none && depth_ == 3 && top_key_ == "model" && key_ == name;
  }
  void deeper() {
    check(++depth_ <= kMaxDepth, "tokenizer", "{}: nested deeper than {} levels", where, kMaxDepth);
  }
  Json* put(Json v) {
    if (stack_.empty()) return &(spec.rest = std::move(v));
    Json& parent = *stack_.back();
    if (parent.is_array()) return &parent.emplace_back(std::move(v));
    check(!parent.contains(key_), "tokenizer", "{}: duplicate key \"{}\"", where, key_);
    return &(parent[key_] = std::move(v));
  }
  void open(Json container) { stack_.push_back(put(std::move(container))); }
  bool close() {
    if (list_ != List::none && depth_ == list_depth_)
      list_ = List::none;
    else
      stack_.pop_back();
    --depth_;
    return true;
  }
  bool number(std::int64_t v) {
    if (list_ == List::vocab) {
      spec.vocab.emplace_back(key_, token_id(v, key_));
      return true;
    }
    return value(v);
  }
  bool value(Json v) {
    check(list_ == List::none, "tokenizer", "{}: unexpected {} in model.{}", where, v.type_name(),
          list_ == List::vocab ? "vocab" : "merges");
    put(std::move(v));
    return true;
  }

  std::vector<Json*> stack_;
  std::vector<std::string> pair_;
  std::string key_, top_key_;
  std::size_t depth_ = 0, list_depth_ = 0;
  List list_ = List::none;
};

}  // namespace

std::pair<std::string, std::string> split_merge(std::string_view merge) {
  const std::size_t space = merge.find(' ');
  check(space != merge.npos && merge.find(' ', space + 1) == merge.npos, "tokenizer",
        "merge \"{}\": expected two tokens with one space between", merge);
  return {std::string(merge.substr(0, space)), std::string(merge.substr(space + 1))};
}

TokenizerSpec parse_tokenizer_json(std::string_view text, std::string_view where) {
  Reader reader;
  reader.where = where;
  Json::sax_parse(text.begin(), text.end(), &reader);
  return std::move(reader.spec);
}

TokenizerSpec spec_of(const Json& tokenizer_json) {
  TokenizerSpec spec;
  check(tokenizer_json.is_object(), "tokenizer", "tokenizer.json: expected an object, found {}",
        tokenizer_json.type_name());
  for (const auto& [key, value] : tokenizer_json.items()) {
    if (key != "model" || !value.is_object()) {
      spec.rest[key] = value;
      continue;
    }
    for (const auto& [name, part] : value.items()) {
      if (name == "vocab" && part.is_object()) {
        for (const auto& [token, id] : part.items()) {
          check(id.is_number_integer(), "tokenizer", "token \"{}\": expected an id, found {}",
                token, id.type_name());
          spec.vocab.emplace_back(token, token_id(id.get<std::int64_t>(), token));
        }
      } else if (name == "merges" && part.is_array()) {
        for (const Json& merge : part) {
          if (merge.is_string()) {
            spec.merges.push_back(split_merge(merge.get_ref<const std::string&>()));
            continue;
          }
          check(
              merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string(),
              "tokenizer", "merge {}: expected 2 strings, found {}", spec.merges.size(),
              merge.dump());
          spec.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
        }
      } else {
        spec.rest["model"][name] = part;
      }
    }
  }
  return spec;
}

std::string string_at(const Json& object, const char* key, std::string_view where) {
  check(object.is_object() && object.contains(key) && object[key].is_string(), "tokenizer",
        "{}: expected a string \"{}\"", where, key);
  return object[key].get<std::string>();
}

bool bool_at(const Json& object, const char* key, bool otherwise) {
  if (!object.is_object() || !object.contains(key) || object[key].is_null()) return otherwise;
  check(object[key].is_boolean(), "tokenizer", "\"{}\": expected true or false, found {}", key,
        object[key].dump());
  return object[key].get<bool>();
}

std::size_t natural(const Json& number, std::string_view where) {
  check(number.is_number_integer() && number >= 0 && number <= (1 << 30), "tokenizer",
        "{}: expected a whole number of at most 2^30, found {}", where, number.dump());
  return number.get<std::size_t>();
}

std::string type_of(const Json& component) {
  if (!component.is_object() || !component.contains("type") || !component["type"].is_string())
    return "";
  return component["type"].get<std::string>();
}

}  // namespace qad::text
