// Models write responses and their programs output: any bytes have code in them or have not.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "score/program.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  qad::score::extract_code(text);
  qad::score::extract_code(text.substr(size / 2), text.substr(0, size / 2));
  qad::score::same_output(text.substr(0, size / 2), text.substr(size / 2));
  return 0;
}
