#include "models/config_values.h"

#include <cmath>

#include "core/error.h"

namespace qad::models {

const Json* find(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it == json.end() || it->is_null() ? nullptr : &*it;
}

std::int64_t integer(const Json& json, const char* key, std::int64_t least, std::int64_t most) {
  const Json* value = find(json, key);
  check(value != nullptr, kParseConfig, "config.json: {}: expected a number, found none", key);
  check(value->is_number_integer(), kParseConfig,
        "config.json: {}: expected a whole number, found {}", key, value->dump());
  const auto n = value->is_number_unsigned() && value->get<std::uint64_t>() > INT64_MAX
                     ? INT64_MAX
                     : value->get<std::int64_t>();
  check(n >= least && n <= most, kParseConfig, "config.json: {}: expected {} to {}, found {}", key,
        least, most, value->dump());
  return n;
}

std::int64_t size(const Json& json, const char* key, std::int64_t most) {
  return integer(json, key, 1, most);
}

std::int64_t size_or(const Json& json, const char* key, std::int64_t fallback, std::int64_t most) {
  return find(json, key) ? size(json, key, most) : fallback;
}

double number_or(const Json& json, const char* key, double fallback) {
  const Json* value = find(json, key);
  if (!value) return fallback;
  check(value->is_number(), kParseConfig, "config.json: {}: expected a number, found {}", key,
        value->dump());
  const double x = value->get<double>();
  check(std::isfinite(x) && x > 0, kParseConfig,
        "config.json: {}: expected a positive number, found {}", key, x);
  return x;
}

bool boolean_or(const Json& json, const char* key, bool fallback) {
  const Json* value = find(json, key);
  if (!value) return fallback;
  check(value->is_boolean(), kParseConfig, "config.json: {}: expected true or false, found {}", key,
        value->dump());
  return value->get<bool>();
}

std::string text_or(const Json& json, const char* key, const char* fallback) {
  const Json* value = find(json, key);
  if (!value) return fallback;
  check(value->is_string(), kParseConfig, "config.json: {}: expected a string, found {}", key,
        value->dump());
  return value->get<std::string>();
}

}  // namespace qad::models
