// Typed access to a GGUF's key-values and tensors, for what turns them into a configuration.
#pragma once

#include <algorithm>
#include <cfloat>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/gguf_file.h"
#include "core/error.h"

namespace qad::checkpoint {

// GGUF stores FP32; config.json wants the decimal that was meant (1e-05, not 9.99999974e-06). Both
// name one float.
inline double shortest_decimal(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), static_cast<float>(value)).ptr;
  double decimal = value;
  std::from_chars(text, end, decimal);
  return decimal;
}

// The keys under a prefix ("llama."), typed. Throws Error naming the key that is missing or
// malformed.
class Keys {
 public:
  Keys(const GgufFile& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}

  const Json* find(std::string_view key) const {
    const auto entry = file_.metadata.find(prefix_ + std::string(key));
    return entry == file_.metadata.end() ? nullptr : &*entry;
  }

  std::int64_t integer(std::string_view key,
                       std::optional<std::int64_t> fallback = std::nullopt) const {
    const Json* value = find(key);
    if (value == nullptr && fallback) return *fallback;
    require(value, key);
    const bool ok = value->is_number_integer() && *value >= 1 && *value <= INT32_MAX;
    check(ok, "open_gguf", "{}: {}{}: expected one integer from 1 to {}, found {}", file_.where,
          prefix_, key, INT32_MAX, found(*value));
    return value->get<std::int64_t>();
  }

  double number(std::string_view key, std::optional<double> fallback = std::nullopt) const {
    const Json* value = find(key);
    if (value == nullptr && fallback) return *fallback;
    require(value, key);
    const bool ok =
        value->is_number() && value->get<double>() > 0 && value->get<double>() <= FLT_MAX;
    check(ok, "open_gguf", "{}: {}{}: expected a positive number, found {}", file_.where, prefix_,
          key, found(*value));
    return shortest_decimal(value->get<double>());
  }

  // Keys that change what the layers compute, in ways the config of these architectures has no word
  // for.
  void require_neutral(std::string_view key, double neutral) const {
    const Json* value = find(key);
    if (value == nullptr) return;
    const bool ok = (value->is_number() && value->get<double>() == neutral) ||
                    (value->is_boolean() && value->get<bool>() == (neutral != 0));
    check(ok, "open_gguf", "{}: {}{} is {}; such models are not supported", file_.where, prefix_,
          key, found(*value));
  }

  static std::string found(const Json& value) {
    return value.is_number() ? value.dump() : value.type_name();
  }

 private:
  void require(const Json* value, std::string_view key) const {
    check(value != nullptr, "open_gguf", "{}: key {}{} is missing", file_.where, prefix_, key);
  }

  const GgufFile& file_;
  std::string prefix_;
};

inline const GgufTensor* find_tensor(const GgufFile& file, std::string_view name) {
  const auto t = std::ranges::find(file.tensors, name, &GgufTensor::name);
  return t == file.tensors.end() ? nullptr : &*t;
}

}  // namespace qad::checkpoint
