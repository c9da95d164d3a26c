// Fuzzes the layouts of HF folders: the first two bytes say how long config.json is, which follows;
// the rest is model.safetensors. Either all is understood, and every value can be read, or an Error
// says what is wrong.
#include <cstring>

#include "checkpoint/engines.h"
#include "checkpoint/hf_folder.h"
#include "checkpoint/out_model.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace qad;
  using namespace qad::checkpoint;
  std::uint16_t length = 0;
  if (size < sizeof length) return 0;
  std::memcpy(&length, data, sizeof length);
  const auto rest = std::as_bytes(std::span(data, size)).subspan(sizeof length);
  if (length > rest.size()) return 0;
  try {
    Checkpoint c;
    c.path = "fuzz";
    c.format = "memory";
    c.config = parse_json({reinterpret_cast<const char*>(rest.data()), length}, "config.json");
    if (!c.config.is_object()) return 0;
    Json flat;
    if (const auto it = c.config.find("quantization_config"); it != c.config.end()) {
      flat = *it;
      c.config.erase(it);
    }
    c.quantization = normalised_quantization({}, flat);
    std::map<std::string, std::string> metadata;
    for (Tensor& t : parse_safetensors(rest.subspan(length), "fuzz", metadata))
      c.tensors.emplace(t.name, t);
    adopt_layouts(c, flat, metadata);
    for (const std::string_view engine : engines()) findings(c, engine);
    const OutModel m = out_model(c, std::nullopt);
    for (const OutWeight& w : m.weights) {
      std::size_t n = 1;
      for (const std::int64_t dim : w.shape) n *= static_cast<std::size_t>(dim);
      std::vector<float> values(n);
      const bool is_float = w.is_quantized() || w.dtype == DType::f32 || w.dtype == DType::bf16 ||
                            w.dtype == DType::f16 || w.dtype == DType::f64;
      if (is_float) values_of(w, values.data());
    }
  } catch (const Error&) {
  }
  return 0;
}
