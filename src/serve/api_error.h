// What the server refuses, in the shape of OpenAI's API:
//   {"error": {"message": ..., "type": ..., "param": ... or null, "code": ... or null}}
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "core/json.h"

namespace qad::serve {

struct ApiError : std::runtime_error {
  ApiError(int http_status, const std::string& message) : std::runtime_error(message) {
    status = http_status;
    if (status >= 500) type = "server_error";
  }
  int status;
  std::string type = "invalid_request_error";
  std::string param, code;  // empty: null
  int retry_after_s = 0;    // 0: nothing is said of it
};

Json to_json(const ApiError& error);

// 400 for the parameter `param` of a request.
template <class... Args>
[[noreturn]] void refuse(std::string_view param, fmt::format_string<Args...> format,
                         Args&&... args) {
  ApiError error(400,
                 fmt::format("{}: {}", param, fmt::format(format, std::forward<Args>(args)...)));
  error.param = param;
  throw error;
}

template <class... Args>
void require(bool ok, std::string_view param, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) refuse(param, format, std::forward<Args>(args)...);
}

}  // namespace qad::serve
