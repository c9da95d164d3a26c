// Masters to values on CUDA: checks and registration.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cuda/tensor.h"
#include "ops/optimizer_checks.h"

namespace qad::cuda {
namespace {

using at::Tensor;

Tensor ship_cuda(const Tensor& master, const Tensor& value, const Tensor& global,
                 const std::optional<Tensor>& amax, std::int64_t rule, std::int64_t global_rule) {
  ops::check_ship(master, value, global, amax, rule, global_rule);
  const Type type = type_of(value, "ship", "value");
  const Type master_type = type_of(master, "ship", "master");
  const std::int64_t cols = master.size(-1), rows = cols == 0 ? 0 : master.numel() / cols;
  const void* from = master.const_data_ptr();
  const Tensor out = at::empty({}, global.options());
  const Launch launch(master, "ship");
  Tensor most = amax.value_or(Tensor());
  if (!most.defined()) {
    most = at::empty({}, global.options());
    weight_amax(master_type, from, master.numel(),
                static_cast<std::uint32_t*>(most.mutable_data_ptr()), launch.stream());
  }
  ship(master_type, from, rows, cols, most.const_data_ptr<float>(),
       static_cast<nvfp4::GlobalScale>(global_rule), static_cast<nvfp4::BlockScale>(rule), type,
       value.mutable_data_ptr(), global.mutable_data_ptr<float>(), out.mutable_data_ptr<float>(),
       launch.stream());
  launch.done(master, value);
  return out;
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("ship_", ship_cuda);
}

}  // namespace
}  // namespace qad::cuda
