// Fuzzes GGUF: any bytes either parse, map and decode, or throw Error; nothing else happens.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/gguf.h"
#include "checkpoint/out_model.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace qad;
  try {
    const auto bytes = std::as_bytes(std::span(data, size));
    const auto model = checkpoint::gguf_checkpoint(checkpoint::parse_gguf(bytes, "fuzz.gguf"), {});
    for (const auto& [name, tensor] : model.tensors) {
      if (tensor.make) {
        const checkpoint::TensorBytes made(tensor);
        continue;
      }
      std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
      checkpoint::read_f32(tensor, values.data());
    }
    checkpoint::out_model(model, std::nullopt);
  } catch (const Error&) {
  }
  return 0;
}
