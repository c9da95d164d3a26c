// Models write answers: any two byte strings have a verdict, soon, and any response an answer.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "score/math.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::size_t line = text.find('\n');
  const std::string_view reference = text.substr(0, line);
  const std::string_view answer = line == std::string_view::npos ? "" : text.substr(line + 1);
  qad::score::math_equal(reference, answer);
  if (!reference.empty() && !qad::score::math_equal(reference, reference)) std::abort();
  qad::score::final_answer(text);
  qad::score::last_number(text);
  return 0;
}
