// The fields that are no structs: what each accepts.
#include "core/yaml_keys.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace qad::yaml {

std::vector<std::string> split_words(const std::string& words) {
  std::vector<std::string> all;
  for (std::size_t i = 0; i <= words.size(); ++i) {
    const std::size_t end = std::min(words.find('|', i), words.size());
    all.push_back(words.substr(i, end - i));
    i = end;
  }
  return all;
}

std::pair<std::string, std::string> split_assignment(const std::string& assignment,
                                                     const std::string& operation) {
  const std::size_t equals = assignment.find('=');
  check(equals != std::string::npos, operation, "--set {}: expected key=value", assignment);
  return {assignment.substr(0, equals), assignment.substr(equals + 1)};
}

void read(const YAML::Node& n, std::string& out, const std::string& key, const std::string& words,
          const Source& source) {
  out = scalar<std::string>(n, key, "text", source);
  if (words.empty()) return;
  const std::vector<std::string> allowed = split_words(words);
  check(std::find(allowed.begin(), allowed.end(), out) != allowed.end(), source.operation,
        "{}: {}: expected one of {}, found \"{}\"{}", source.at(n), key, fmt::join(allowed, ", "),
        out, did_you_mean(out, allowed));
}

void read(const YAML::Node& n, std::int64_t& out, const std::string& key, const std::string& words,
          const Source& source) {
  out = scalar<std::int64_t>(n, key, "a whole number", source);
  const std::int64_t least = words == ">0" ? 1 : 0;
  check(out >= least && out <= std::numeric_limits<std::int32_t>::max(), source.operation,
        "{}: {}: expected a number from {} to {}, found {}", source.at(n), key, least,
        std::numeric_limits<std::int32_t>::max(), out);
}

void read(const YAML::Node& n, double& out, const std::string& key, const std::string& words,
          const Source& source) {
  out = scalar<double>(n, key, "a number", source);
  check(std::isfinite(out) && out >= 0, source.operation,
        "{}: {}: expected a finite number from 0, found {}", source.at(n), key, out);
  check(out > 0 || words != ">0", source.operation, "{}: {}: expected more than 0", source.at(n),
        key);
}

void read(const YAML::Node& n, bool& out, const std::string& key, const std::string&,
          const Source& source) {
  out = scalar<bool>(n, key, "true or false", source);
}

void read(const YAML::Node& n, std::vector<std::string>& out, const std::string& key,
          const std::string&, const Source& source) {
  out.clear();
  if (n.IsScalar()) {
    out.push_back(n.as<std::string>());
    return;
  }
  check(n.IsSequence(), source.operation, "{}: {}: expected a list of texts", source.at(n), key);
  for (const auto& item : n) out.push_back(scalar<std::string>(item, key, "text", source));
}

YAML::Node as_node(const std::string& value) {
  return YAML::Node(value);
}
YAML::Node as_node(std::int64_t value) {
  return YAML::Node(value);
}
YAML::Node as_node(bool value) {
  return YAML::Node(value);
}
YAML::Node as_node(double value) {
  return YAML::Node(fmt::format("{}", value));
}

}  // namespace qad::yaml
