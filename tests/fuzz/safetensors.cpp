// Any bytes as a safetensors file: an Error or tensors whose every byte lies in the input and can
// be converted.
#include "checkpoint/safetensors.h"

#include <cstdlib>

#include "checkpoint/dtype.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace qad;
  const auto file = std::as_bytes(std::span(data, size));
  std::vector<checkpoint::Tensor> tensors;
  try {
    std::map<std::string, std::string> metadata;
    tensors = checkpoint::parse_safetensors(file, "fuzz", metadata);
  } catch (const Error&) {
    return 0;
  }
  std::size_t total = 0;
  for (const checkpoint::Tensor& t : tensors) {
    total += t.raw.size();
    if (!t.raw.empty() &&
        (t.raw.data() < file.data() || t.raw.data() + t.raw.size() > file.data() + size))
      std::abort();
    const auto width = checkpoint::bytes_per_element(t.dtype);
    if (width > 0 && static_cast<std::size_t>(t.elements()) * width != t.raw.size()) std::abort();
    std::vector<float> values(t.raw.empty() ? 0 : static_cast<std::size_t>(t.elements()));
    try {
      checkpoint::read_f32(t, values.data());
    } catch (const Error&) {
    }
  }
  if (total > size) std::abort();
  return 0;
}
