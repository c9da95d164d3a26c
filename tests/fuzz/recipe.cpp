// Recipes are written by hand and by other programs: any bytes give a recipe or an Error.
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/error.h"
#include "recipe/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    qad::recipe::parse_recipe(std::string(reinterpret_cast<const char*>(data), size), "fuzz");
  } catch (const qad::Error&) {
  }
  return 0;
}
