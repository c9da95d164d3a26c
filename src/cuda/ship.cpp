// Masters to values on CUDA: checks and registration.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cuda/tensor.h"
#include "ops/optimizer_checks.h"

namespace qad::cuda {
namespace {

using at::Tensor;

Tensor ship_list_cuda(at::TensorList masters, at::TensorList values, at::TensorList globals,
                      const std::optional<Tensor>& amax, at::IntArrayRef rules,
                      std::int64_t global_rule) {
  ops::check_ship_list(masters, values, globals, amax, rules);
  const auto options = masters[0].options().dtype(at::kFloat);
  const auto items = static_cast<std::int64_t>(masters.size());
  const Launch launch(masters[0], "ship");
  const bool known = amax && amax->defined();
  const Tensor most = known ? *amax : at::empty({items}, options),
               out = at::empty({items}, options);
  float* const found = known ? nullptr : most.mutable_data_ptr<float>();
  std::vector<ShipTensor> tensors;
  for (std::size_t i = 0; i < masters.size(); ++i) {
    const Tensor &master = masters[i], &value = values[i];
    check(master.device() == masters[0].device(), "ship", "master {}: expected it on {}, found {}",
          i, masters[0].device().str(), describe(master));
    ops::check_ship(master, value, globals[i], {}, rules[i], global_rule);
    const std::int64_t cols = master.size(-1);
    const Type master_type = type_of(master, "ship", "master");
    if (!known)
      weight_amax(master_type, master.const_data_ptr(), master.numel(),
                  reinterpret_cast<std::uint32_t*>(found + i), launch.stream());
    tensors.push_back({master_type, master.const_data_ptr(), type_of(value, "ship", "value"),
                       value.mutable_data_ptr(), cols == 0 ? 0 : master.numel() / cols, cols,
                       static_cast<nvfp4::BlockScale>(rules[i]), most.const_data_ptr<float>() + i,
                       globals[i].mutable_data_ptr<float>(), out.mutable_data_ptr<float>() + i});
  }
  ship(tensors, static_cast<nvfp4::GlobalScale>(global_rule), launch.stream());
  launch.done(masters[0], values[0]);
  return out;
}

// Of one tensor: a list of it.
Tensor ship_cuda(const Tensor& master, const Tensor& value, const Tensor& global,
                 const std::optional<Tensor>& amax, std::int64_t rule, std::int64_t global_rule) {
  ops::check_ship(master, value, global, amax, rule, global_rule);
  const bool known = amax && amax->defined();
  return ship_list_cuda(master, value, global, known ? amax->view({1}) : Tensor(), rule,
                        global_rule)
      .select(0, 0);
}

Tensor ship_with_scales_cuda(const Tensor& master, const Tensor& value, const Tensor& global,
                             const Tensor& scales, const std::optional<Tensor>& amax) {
  ops::check_ship_with_scales(master, value, global, scales, amax);
  const Type master_type = type_of(master, "ship", "master"),
             type = type_of(value, "ship", "value");
  const std::int64_t cols = master.size(-1);
  const Launch launch(master, "ship");
  Tensor most;
  if (amax && amax->defined()) {
    most = amax->clone();
  } else {
    most = at::empty({}, master.options().dtype(at::kFloat));
    weight_amax(master_type, master.const_data_ptr(), master.numel(),
                reinterpret_cast<std::uint32_t*>(most.mutable_data_ptr<float>()), launch.stream());
  }
  if (master.numel() > 0)
    ship_with_scales({master_type, master.const_data_ptr(), type, value.mutable_data_ptr(),
                      master.numel() / cols, cols, global.const_data_ptr<float>(),
                      scales.const_data_ptr<std::uint8_t>()},
                     launch.stream());
  launch.done(master, value, scales);
  return most;
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("ship_with_scales_", ship_with_scales_cuda);
  m.impl("ship_", ship_cuda);
  m.impl("ship_list_", ship_list_cuda);
}

}  // namespace
}  // namespace qad::cuda
