// Safetensors through the checkpoint room, so that the state can be looked at with any tool.
#include "distill/state.h"

#include <ATen/ops/empty.h>

#include <cstring>

#include "checkpoint/safetensors.h"
#include "checkpoint/write.h"
#include "core/error.h"

namespace qad::distill {

checkpoint::DType dtype_of(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat:
      return checkpoint::DType::f32;
    case at::kBFloat16:
      return checkpoint::DType::bf16;
    case at::kShort:
      return checkpoint::DType::i16;
    case at::kByte:
      return checkpoint::DType::u8;
    default:
      fail("save", "a tensor of type {} is no part of a training state",
           c10::toString(t.scalar_type()));
  }
}

void save_state(const fs::path& folder, const Json& about, const NamedTensors& tensors) {
  checkpoint::OutFolder out;
  out.config = about;
  out.max_shard_bytes = std::numeric_limits<std::int64_t>::max();  // read_state_tensors reads one
  for (const auto& [name, tensor] : tensors)
    out.tensors.push_back(
        {name, dtype_of(tensor), tensor.sizes().vec(), [t = tensor](std::byte* to) {
           const at::Tensor here = t.to(at::kCPU);
           std::memcpy(to, here.const_data_ptr(), here.nbytes());
         }});
  checkpoint::write_folder(folder, out);
}

Json read_state_json(const fs::path& folder) {
  return read_json(folder / "config.json");
}

void read_state_tensors(const fs::path& folder, const NamedTensors& tensors) {
  const auto file = checkpoint::read_safetensors(folder / "model.safetensors");
  std::map<std::string_view, const checkpoint::Tensor*> found;
  for (const checkpoint::Tensor& t : file.tensors) found[t.name] = &t;
  for (const auto& [name, tensor] : tensors) {
    const auto it = found.find(name);
    check(it != found.end() && it->second->dtype == dtype_of(tensor) &&
              tensor.sizes() == at::IntArrayRef(it->second->shape),
          "resume", "{}: {} is missing or of another shape; is this the state of another model?",
          folder.string(), name);
    const at::Tensor here = at::empty(tensor.sizes(), tensor.scalar_type());
    std::memcpy(here.data_ptr(), it->second->raw.data(), here.nbytes());
    at::Tensor to = tensor;
    to.copy_(here);
  }
}

}  // namespace qad::distill
