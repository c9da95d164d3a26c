// Files of safetensors, so that they can be looked at with any tool.
#include "distill/teacher_cache.h"

#include <ATen/ops/empty.h>

#include <cstring>

#include "checkpoint/safetensors.h"
#include "checkpoint/write.h"
#include "core/error.h"
#include "distill/resume.h"
#include "distill/state.h"

namespace qad::distill {

TeacherCache::TeacherCache(const fs::path& folder, const models::Model& teacher)
    : placement_(teacher.placement) {
  // The device counts: its sums round otherwise.
  folder_ = folder / fmt::format("{:016x}-{}", fingerprint(teacher),
                                 at::DeviceTypeName(placement_.device.type(), true));
  std::error_code error;
  fs::create_directories(folder_, error);
  check(!error, "teacher_cache", "{}: cannot make the folder: {}", folder_.string(),
        error.message());
}

fs::path TeacherCache::file_of(const models::Tokens& tokens) const {
  return folder_ / fmt::format("{:016x}.safetensors", fingerprint({tokens.ids, tokens.cu_seqlens}));
}

std::optional<at::Tensor> TeacherCache::find(const models::Tokens& tokens) const {
  const fs::path path = file_of(tokens);
  if (!fs::exists(path)) return std::nullopt;
  const auto file = checkpoint::read_safetensors(path);
  const at::Tensor ids = tokens.ids.to(at::kCPU);
  const checkpoint::Tensor *hidden = nullptr, *kept = nullptr;
  for (const checkpoint::Tensor& t : file.tensors) (t.name == "hidden" ? hidden : kept) = &t;
  const bool sound = hidden != nullptr && kept != nullptr && kept->name == "ids" &&
                     kept->raw.size() == ids.nbytes() &&
                     std::memcmp(kept->raw.data(), ids.const_data_ptr(), ids.nbytes()) == 0 &&
                     hidden->shape.size() == 2 && hidden->shape[0] == ids.numel();
  check(sound, "teacher_cache", "{}: does not hold the states of these tokens; remove it",
        path.string());
  const at::Tensor states = at::empty(hidden->shape, placement_.type);
  check(hidden->dtype == dtype_of(states), "teacher_cache", "{}: holds {}, expected {}; remove it",
        path.string(), checkpoint::name_of(hidden->dtype), c10::toString(placement_.type));
  std::memcpy(states.data_ptr(), hidden->raw.data(), states.nbytes());
  return states.to(placement_.device);
}

void TeacherCache::keep(const models::Tokens& tokens, const at::Tensor& hidden) const {
  const auto bytes = [](const at::Tensor& t) {
    return [here = t.to(at::kCPU).contiguous()](std::byte* to) {
      std::memcpy(to, here.const_data_ptr(), here.nbytes());
    };
  };
  checkpoint::write_safetensors(
      file_of(tokens),
      {{"hidden", dtype_of(hidden), hidden.sizes().vec(), bytes(hidden)},
       {"ids", checkpoint::DType::i64, tokens.ids.sizes().vec(), bytes(tokens.ids)}});
}

}  // namespace qad::distill
