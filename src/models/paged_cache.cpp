// Room for what decoding keeps of many sequences: pages of keys and values, slots of states.
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <sys/mman.h>

#include "core/error.h"
#include "models/model.h"

namespace qad::models {
namespace {

// Zeros. On a CPU memory is taken page by page as it is written, so that room for many sequences
// costs nothing before there are many.
at::Tensor room(at::IntArrayRef shape, const at::TensorOptions& options) {
  std::size_t bytes = options.dtype().itemsize();
  for (const std::int64_t n : shape) bytes *= static_cast<std::size_t>(n);
  if (!options.device().is_cpu() || bytes == 0) return at::zeros(shape, options);
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  check(memory != MAP_FAILED, "paged cache",
        "no memory for {} bytes of keys, values or states; ask for less", bytes);
  return at::from_blob(
      memory, shape, [bytes](void* p) { munmap(p, bytes); }, options);
}

// What a key or value is stored as.
at::ScalarType stored_type(const Model& model, const Attention& a) {
  return a.kv_scales ? at::kByte : model.placement.type;
}

}  // namespace

PagedCache make_paged_cache(const Model& model, std::int64_t pages, std::int64_t page_tokens,
                            std::int64_t slots) {
  check(pages > 0 && page_tokens > 0 && slots > 0, "paged cache",
        "expected pages of tokens and slots, found {} of {} and {}", pages, page_tokens, slots);
  PagedCache cache{pages, page_tokens, slots, {}, {}, {}, {}};
  const auto options =
      at::TensorOptions().dtype(model.placement.type).device(model.placement.device);
  for (const Layer& layer : model.layers) {
    at::Tensor keys, values;
    if (layer.attention) {
      const AttentionConfig& c = layer.attention->config;
      const auto of = options.dtype(stored_type(model, *layer.attention));
      keys = room({pages, page_tokens, c.kv_heads, c.head_dim}, of);
      values = room({pages, page_tokens, c.kv_heads, c.head_dim}, of);
    }
    cache.keys.push_back(std::move(keys));
    cache.values.push_back(std::move(values));
    at::Tensor convolution, state;
    if (layer.mamba) {
      const MambaConfig& c = layer.mamba->config;
      convolution = room({slots, c.kernel - 1, c.conv_channels()}, options);
      state = room({slots, c.heads, c.head_dim, c.state}, options.dtype(at::kFloat));
    }
    cache.convolutions.push_back(std::move(convolution));
    cache.states.push_back(std::move(state));
  }
  return cache;
}

double bytes_of_slot(const Model& model) {
  double bytes = 0;
  for (const Layer& layer : model.layers) {
    if (!layer.mamba) continue;
    const MambaConfig& c = layer.mamba->config;
    bytes += static_cast<double>((c.kernel - 1) * c.conv_channels()) *
                 static_cast<double>(c10::elementSize(model.placement.type)) +
             static_cast<double>(c.inner() * c.state) * sizeof(float);
  }
  return bytes;
}

double bytes_of_page(const Model& model, std::int64_t page_tokens) {
  double bytes = 0;
  for (const Layer& layer : model.layers) {
    if (!layer.attention) continue;
    const AttentionConfig& c = layer.attention->config;
    bytes += 2 * static_cast<double>(c.kv_heads * c.head_dim) *
             static_cast<double>(c10::elementSize(stored_type(model, *layer.attention)));
  }
  return bytes * static_cast<double>(page_tokens);
}

}  // namespace qad::models
