// The version that results carry. CMakeLists.txt names it too (a test compares them).
#pragma once

#include <string_view>

namespace qad {

inline constexpr std::string_view kVersion = "0.1.0";

}  // namespace qad
