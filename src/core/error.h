// Errors that a user can act on: "[operation] place: expected ..., found ...; what to do". One
// exception type, thrown at the boundary where bad input is met; main prints what() and exits
// with 1.
//
//   check(k == config_k, "load_checkpoint", "{}: expected {} columns from config.json, found {}",
//   name, config_k, k);
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace qad {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Args>
[[noreturn]] void fail(std::string_view operation, fmt::format_string<Args...> format,
                       Args&&... args) {
  throw Error(fmt::format("[{}] {}", operation, fmt::format(format, std::forward<Args>(args)...)));
}

template <class... Args>
void check(bool ok, std::string_view operation, fmt::format_string<Args...> format,
           Args&&... args) {
  if (!ok) fail(operation, format, std::forward<Args>(args)...);
}

}  // namespace qad
