// Values pass through FP32, which holds every BF16, F16 and GGUF block value exactly.
#include "checkpoint/convert.h"

#include <bit>
#include <cstring>

#include "core/error.h"
#include "nvfp4/nvfp4.h"

namespace qad::checkpoint {
namespace {

std::uint16_t bf16_bits(float x) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(nvfp4::round_to_bf16(x)) >> 16);
}

// What a tensor that must pass through FP32 becomes by default: F16 has no exact home but FP32.
DType type_for(const Tensor& tensor) {
  const bool exact = tensor.stored_as.empty() || tensor.stored_as == "F32" ||
                     tensor.stored_as == "F16" || tensor.stored_as == "BF16";
  return exact && tensor.dtype != DType::bf16 ? DType::f32 : DType::bf16;
}

const char* config_name(DType dtype) {
  return dtype == DType::f32 ? "float32" : dtype == DType::f16 ? "float16" : "bfloat16";
}

}  // namespace

void store_f32(const float* values, std::int64_t count, DType dtype, std::byte* out) {
  const auto n = static_cast<std::size_t>(count);
  check(dtype == DType::f32 || dtype == DType::bf16, "store", "cannot store values as {}",
        name_of(dtype));
  if (dtype == DType::f32) {
    std::memcpy(out, values, n * sizeof(float));
    return;
  }
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint16_t bits = bf16_bits(values[i]);
    std::memcpy(out + 2 * i, &bits, sizeof bits);
  }
}

OutFolder unquantized_folder(const Checkpoint& source, std::optional<DType> dtype) {
  check(source.quantization.is_null(), "convert",
        "{}: is quantised; only unquantised models are converted so far", source.path.string());
  OutFolder folder;
  folder.config = source.config;
  folder.generation_config = source.generation_config;
  DType matrices = DType::bf16;
  for (const auto& entry : source.tensors) {
    const Tensor& tensor = entry.second;
    const bool plain = !tensor.read && (!dtype || *dtype == tensor.dtype);
    const DType type = plain ? tensor.dtype : dtype.value_or(type_for(tensor));
    if (tensor.shape.size() > 1) matrices = type;
    folder.tensors.push_back({tensor.name, type, tensor.shape, [&tensor, plain, type](auto* out) {
                                if (plain) {
                                  std::memcpy(out, tensor.raw.data(), tensor.raw.size());
                                  return;
                                }
                                const std::int64_t count = tensor.elements();
                                std::vector<float> values(static_cast<std::size_t>(count));
                                read_f32(tensor, values.data());
                                store_f32(values.data(), count, type, out);
                              }});
  }
  folder.config["torch_dtype"] = config_name(matrices);
  return folder;
}

}  // namespace qad::checkpoint
