// Any bytes as a template over a small conversation: it renders or throws Error, within bounded
// work.
#include "text/chat_template.h"

#include <cstddef>
#include <cstdint>

#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const qad::Json variables = qad::parse_json(
      R"({"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "日本 a\n"},
          {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1.5}}}]}],
          "tools": [], "add_generation_prompt": true, "bos_token": "<s>"})",
      "fuzz");
  try {
    qad::text::ChatTemplate({reinterpret_cast<const char*>(data), size}).render(variables);
  } catch (const qad::Error&) {
  }
  return 0;
}
