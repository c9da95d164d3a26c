// Requests come from anyone who reaches the server: any bytes give a call or an ApiError, whose own
// JSON can be written.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "serve/api_error.h"
#include "serve/call.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  for (const auto endpoint : {qad::serve::Endpoint::chat, qad::serve::Endpoint::completions}) {
    try {
      qad::serve::parse_call(endpoint, body);
    } catch (const qad::serve::ApiError& e) {
      qad::serve::to_json(e).dump(-1, ' ', false, qad::Json::error_handler_t::replace);
    }
  }
  return 0;
}
