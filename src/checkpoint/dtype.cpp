// The table of element types, and the conversion of stored values to FP32.
#include "checkpoint/dtype.h"

#include <fmt/ranges.h>

#include <array>
#include <bit>
#include <cstring>

#include "core/error.h"

namespace qad::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little, "the formats are little-endian");

constexpr std::array kTypes{
    DTypeInfo{"F64", DType::f64, 64},
    DTypeInfo{"F32", DType::f32, 32},
    DTypeInfo{"F16", DType::f16, 16},
    DTypeInfo{"BF16", DType::bf16, 16},
    DTypeInfo{"F8_E4M3", DType::f8_e4m3, 8},
    DTypeInfo{"F8_E5M2", DType::f8_e5m2, 8},
    DTypeInfo{"U8", DType::u8, 8},
    DTypeInfo{"I8", DType::i8, 8},
    DTypeInfo{"I16", DType::i16, 16},
    DTypeInfo{"I32", DType::i32, 32},
    DTypeInfo{"I64", DType::i64, 64},
    DTypeInfo{"BOOL", DType::boolean, 8},
    DTypeInfo{"U16", DType::other, 16},
    DTypeInfo{"U32", DType::u32, 32},
    DTypeInfo{"U64", DType::other, 64},
    DTypeInfo{"C64", DType::other, 64},
    DTypeInfo{"F8_E8M0", DType::other, 8},
    DTypeInfo{"F8_E4M3FNUZ", DType::other, 8},
    DTypeInfo{"F8_E5M2FNUZ", DType::other, 8},
    DTypeInfo{"F6_E2M3", DType::other, 6},
    DTypeInfo{"F6_E3M2", DType::other, 6},
    DTypeInfo{"F4", DType::other, 4},
};

// The raw bytes may start anywhere in the map, so values are fetched with memcpy, which compiles to
// plain unaligned (vector) loads.
template <class T>
T load(const std::byte* p, std::int64_t i) {
  T value;
  std::memcpy(&value, p + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// Without denormal floats in between, which a flush-to-zero mode would lose.
float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 31u, mantissa = half & 1023u;
  const std::uint32_t normal = ((exponent + 112) << 23) | (mantissa << 13);
  const std::uint32_t special = 0x7F800000u | (mantissa << 13);
  const std::uint32_t small = std::bit_cast<std::uint32_t>(
      static_cast<float>(static_cast<std::int32_t>(mantissa)) * 0x1p-24f);
  const std::uint32_t magnitude = exponent == 0 ? small : exponent == 31 ? special : normal;
  return std::bit_cast<float>(sign | magnitude);
}

}  // namespace

const DTypeInfo* find_dtype(std::string_view name) {
  for (const DTypeInfo& info : kTypes)
    if (info.name == name) return &info;
  return nullptr;
}

std::string_view name_of(DType type) {
  for (const DTypeInfo& info : kTypes)
    if (info.type == type && type != DType::other) return info.name;
  return "other";
}

std::size_t bytes_per_element(DType type) {
  for (const DTypeInfo& info : kTypes)
    if (info.type == type && type != DType::other) return static_cast<std::size_t>(info.bits) / 8;
  return 0;
}

std::optional<std::int64_t> count_elements(std::span<const std::int64_t> shape) {
  std::int64_t count = 1;
  for (const std::int64_t dim : shape)
    if (dim < 0 || __builtin_mul_overflow(count, dim, &count)) return std::nullopt;
  return count;
}

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::int64_t Tensor::elements() const {
  const auto count = count_elements(shape);
  check(count.has_value(), "tensor", "{}: shape {} has too many elements", name, shape_text(shape));
  return *count;
}

TensorBytes::TensorBytes(const Tensor& t) : view_(t.raw) {
  if (!t.make) return;
  made_.resize(static_cast<std::size_t>(t.elements()) * bytes_per_element(t.dtype));
  (*t.make)(made_.data());
  view_ = made_;
}

void read_f32(const Tensor& t, float* out) {
  if (t.read) return (*t.read)(out);
  const std::int64_t n = t.elements();
  const TensorBytes bytes(t);
  const std::span<const std::byte> raw = bytes;
  const std::byte* p = raw.data();
  const std::size_t width = bytes_per_element(t.dtype);
  check(t.stored_as.empty() && width > 0 && raw.size() == static_cast<std::size_t>(n) * width,
        "read_f32", "{}: expected {} plain values of a known type, found {} bytes of {}", t.name, n,
        raw.size(), t.stored_as.empty() ? name_of(t.dtype) : t.stored_as);
  switch (t.dtype) {
    case DType::f32:
      if (n > 0) std::memcpy(out, p, raw.size());
      return;
    case DType::bf16:
      for (std::int64_t i = 0; i < n; ++i)
        out[i] = std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(p, i)) << 16);
      return;
    case DType::f16:
      for (std::int64_t i = 0; i < n; ++i) out[i] = half_to_float(load<std::uint16_t>(p, i));
      return;
    case DType::f64:
      for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(load<double>(p, i));
      return;
    default:
      fail("read_f32",
           "{}: stored as {}, which is not a floating-point weight by itself (expected F32, F16, "
           "BF16 "
           "or F64); is this tensor part of a quantised linear?",
           t.name, name_of(t.dtype));
  }
}

}  // namespace qad::checkpoint
