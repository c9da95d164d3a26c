// Element types as safetensors spells them. Types that we cannot compute with (U16, F8_E8M0, F4,
// ...) are known by name and width, so that a file that holds them can be opened and inspected.
#pragma once

#include <optional>
#include <string_view>

#include "checkpoint/checkpoint.h"

namespace qad::checkpoint {

struct DTypeInfo {
  std::string_view name;
  DType type;  // `other` when only name and width are known
  int bits;
};

// nullptr for a name that the safetensors specification does not list.
const DTypeInfo* find_dtype(std::string_view name);

// Product of the dimensions; nullopt when it exceeds int64 or a dimension is negative.
std::optional<std::int64_t> count_elements(std::span<const std::int64_t> shape);

std::string shape_text(std::span<const std::int64_t> shape);  // "[2, 3]"

}  // namespace qad::checkpoint
