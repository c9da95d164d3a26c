// tokenizer.json comes from strangers: any bytes give a tokenizer that encodes and decodes, or an
// Error. What follows the first zero byte is the text.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "text/tokenizer_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t zero = input.find('\0');
  try {
    const auto tokenizer = qad::text::tokenizer_from_spec(
        qad::text::parse_tokenizer_json(input.substr(0, zero), "fuzz"));
    const std::string_view text = zero == input.npos ? "Hello, world" : input.substr(zero + 1);
    tokenizer.decode(tokenizer.encode(text));
  } catch (const qad::Error&) {
  }
  return 0;
}
