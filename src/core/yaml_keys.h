// Structs as YAML, driven by a table of their keys. A struct takes part by a function beside it,
// for_each_key(r, f), which calls f(key, field, words, help) for each key in the order of a file,
// for a const r too:
//   key    its name; "section.name" is nested in YAML
//   field  text, whole number, number, bool, list of texts, or list of further such structs
//   words  of a text the values it accepts, as "one|two"; of a number ">0" if it must be more than
//          0; else ""
//   help   for people
// A struct that stands in lists says which of its keys an entry must give, as
// `static constexpr const char* required = "file"`; where that is one key, its value alone will do.
//
// Every Error says "[operation] FILE:LINE: key: expected ..., found ...". Only .cpp files that read
// or print such a struct include this: yaml-cpp is slow to compile.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/nearest.h"

namespace qad::yaml {

// Where a value came from, for errors.
struct Source {
  std::string operation, file;

  std::string at(const YAML::Node& node) const {
    return node.Mark().line >= 0 ? fmt::format("{}:{}", file, node.Mark().line + 1) : file;
  }
  YAML::Node parse(const std::string& text) const {
    try {
      return YAML::Load(text);
    } catch (const YAML::Exception& e) {
      fail(operation, "{}:{}: not YAML: {}", file, e.mark.line + 1, e.msg);
    }
  }
};

std::vector<std::string> split_words(const std::string& words);  // at '|'

// "key=value", as --set gives it. Throws Error "[operation] ...".
std::pair<std::string, std::string> split_assignment(const std::string& assignment,
                                                     const std::string& operation);

template <class T>
std::vector<std::string> key_names() {
  std::vector<std::string> all;
  T value;
  for_each_key(value,
               [&](const char* key, auto&, const char*, const char*) { all.emplace_back(key); });
  return all;
}

// `kind` is what the user should have written.
template <class T>
T scalar(const YAML::Node& node, const std::string& key, const char* kind, const Source& source) {
  try {
    return node.as<T>();
  } catch (const YAML::Exception&) {
    fail(source.operation, "{}: {}: expected {}, found \"{}\"", source.at(node), key, kind,
         YAML::Dump(node));
  }
}

void read(const YAML::Node& n, std::string& out, const std::string& key, const std::string& words,
          const Source& source);
void read(const YAML::Node& n, std::int64_t& out, const std::string& key, const std::string& words,
          const Source& source);
void read(const YAML::Node& n, double& out, const std::string& key, const std::string& words,
          const Source& source);
void read(const YAML::Node& n, bool& out, const std::string& key, const std::string& words,
          const Source& source);
void read(const YAML::Node& n, std::vector<std::string>& out, const std::string& key,
          const std::string& words, const Source& source);

// Sets the key `key` of `value`.
template <class T>
void set_node(T& value, const std::string& key, const YAML::Node& node, const Source& source) {
  bool known = false;
  for_each_key(value, [&](const char* name, auto& field, const char* words, const char*) {
    if (key != name) return;
    known = true;
    check(!node.IsNull(), source.operation,
          "{}: {}: has no value; leave the key out or give one (\"\" is an empty text)",
          source.at(node), key);
    read(node, field, key, words, source);
  });
  check(known, source.operation, "{}: unknown key \"{}\"{}", source.at(node), key,
        did_you_mean(key, key_names<T>()));
}

template <class T>
void read(const YAML::Node& n, std::vector<T>& out, const std::string& key, const std::string&,
          const Source& source) {
  out.clear();
  const std::vector<std::string> required = split_words(T::required);
  const auto entry = [&](const YAML::Node& item) {
    T value;
    if (item.IsScalar() && required.size() == 1) {
      set_node(value, required[0], item, source);
    } else {
      const std::vector<std::string> names = key_names<T>();
      check(item.IsMap(), source.operation, "{}: {}: expected a mapping of {}", source.at(item),
            key, fmt::join(names, ", "));
      for (const auto& pair : item) {
        const auto name = pair.first.as<std::string>("");
        check(std::find(names.begin(), names.end(), name) != names.end(), source.operation,
              "{}: {}: unknown key \"{}\"{}", source.at(pair.first), key, name,
              did_you_mean(name, names));
        set_node(value, name, pair.second, source);
      }
    }
    for (const std::string& name : required)
      check(item.IsScalar() || item[name].IsDefined(), source.operation,
            "{}: {}: an entry without \"{}\"", source.at(item), key, name);
    out.push_back(std::move(value));
  };
  if (n.IsScalar() && required.size() == 1) return entry(n);
  check(n.IsSequence(), source.operation, "{}: {}: expected a list", source.at(n), key);
  for (const auto& item : n) entry(item);
}

template <class T>
T parse(const std::string& text, const Source& source) {
  T value;
  const YAML::Node root = source.parse(text);
  check(root.IsMap(), source.operation, "{}: expected a mapping of keys", source.file);
  const std::vector<std::string> names = key_names<T>();
  const auto is_section = [&](const std::string& prefix) {
    return std::any_of(names.begin(), names.end(),
                       [&](const std::string& name) { return name.starts_with(prefix + "."); });
  };
  std::set<std::string> seen;
  const auto set_once = [&](const std::string& key, const YAML::Node& name,
                            const YAML::Node& node) {
    check(seen.insert(key).second, source.operation, "{}: \"{}\" is given twice", source.at(name),
          key);
    set_node(value, key, node, source);
  };
  for (const auto& entry : root) {
    const auto name = entry.first.as<std::string>("");
    if (!is_section(name)) {
      set_once(name, entry.first, entry.second);
      continue;
    }
    check(entry.second.IsMap(), source.operation, "{}: {}: expected a mapping of keys",
          source.at(entry.first), name);
    for (const auto& inner : entry.second)
      set_once(name + "." + inner.first.as<std::string>(""), inner.first, inner.second);
  }
  return value;
}

// A key and its value as YAML, as the command line gives them.
template <class T>
void set(T& value, const std::string& key, const std::string& text, const Source& source) {
  YAML::Node node = source.parse(text);
  if (node.IsNull()) node = YAML::Node("");
  set_node(value, key, node, source);
}

Json as_json(const auto& value) {
  return value;
}
template <class T>
requires requires {
  T::required;
}
Json as_json(const std::vector<T>& values) {
  Json list = Json::array();
  for (const T& value : values) {
    Json entry = Json::object();
    for_each_key(value, [&](const char* key, const auto& field, const char*, const char*) {
      entry[key] = as_json(field);
    });
    list.push_back(std::move(entry));
  }
  return list;
}
// Flat: "section.name" is the key.
template <class T>
Json to_json(const T& value) {
  Json flat = Json::object();
  for_each_key(value, [&](const char* key, const auto& field, const char*, const char*) {
    flat[key] = as_json(field);
  });
  return flat;
}

YAML::Node as_node(const std::string& value);
YAML::Node as_node(std::int64_t value);
YAML::Node as_node(bool value);
YAML::Node as_node(double value);  // the shortest digits that read back
template <class T>
YAML::Node as_node(const std::vector<T>& values) {
  YAML::Node list(YAML::NodeType::Sequence);
  for (const T& value : values) {
    if constexpr (requires { T::required; }) {
      YAML::Node entry;
      for_each_key(value, [&](const char* key, const auto& field, const char*, const char*) {
        entry[key] = as_node(field);
      });
      list.push_back(entry);
    } else {
      list.push_back(as_node(value));
    }
  }
  return list;
}
template <class T>
std::string to_yaml(const T& value) {
  YAML::Node root;
  for_each_key(value, [&](const char* key, const auto& field, const char*, const char*) {
    const std::string name = key;
    const std::size_t dot = name.find('.');
    if (dot == std::string::npos)
      root[name] = as_node(field);
    else
      root[name.substr(0, dot)][name.substr(dot + 1)] = as_node(field);
  });
  return YAML::Dump(root) + "\n";
}

}  // namespace qad::yaml
