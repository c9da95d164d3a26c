// OpenAI's error object.
#include "serve/api_error.h"

namespace qad::serve {

Json to_json(const ApiError& e) {
  const auto or_null = [](const std::string& s) { return s.empty() ? Json() : Json(s); };
  return {{"error",
           {{"message", e.what()},
            {"type", e.type},
            {"param", or_null(e.param)},
            {"code", or_null(e.code)}}}};
}

}  // namespace qad::serve
