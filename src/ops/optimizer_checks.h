// What the optimiser's operators demand of their tensors, on every device. What is updated in place
// must be contiguous, since a copy would take the update.
#pragma once

#include "nvfp4/nvfp4.h"
#include "ops/adamw_step.h"
#include "ops/checks.h"

namespace qad::ops {

inline void check_in_place(const at::Tensor& t, at::ScalarType type, const at::Tensor& beside,
                           std::string_view operation, std::string_view name) {
  if (!t.defined() || t.scalar_type() != type || t.device() != beside.device() ||
      !t.is_contiguous())
    fail(operation, "{}: expected contiguous {} on {}, found {}{}", name, c10::toString(type),
         beside.device().str(), describe(t),
         t.defined() && !t.is_contiguous() ? ", not contiguous" : "");
}

inline void check_scalar(const at::Tensor& t, const at::Tensor& beside, std::string_view operation,
                         std::string_view name) {
  check_in_place(t, at::kFloat, beside, operation, name);
  check_size(t.numel(), 1, operation, fmt::format("elements of {}", name));
}

inline void check_shape_of(const at::Tensor& t, const at::Tensor& master,
                           std::string_view operation, std::string_view name) {
  if (!t.defined() || t.sizes() != master.sizes() || t.device() != master.device())
    fail(operation, "{}: expected the shape and device of master, {}, found {}", name,
         describe(master), describe(t));
}

// low: of a split master, whose high half `master` then is.
inline void check_adamw(const at::Tensor& master, const std::optional<at::Tensor>& low,
                        const at::Tensor& grad, const std::optional<at::Tensor>& factor,
                        std::int64_t step) {
  check(master.defined(), "adamw", "master: expected a tensor");
  const bool split = low && low->defined();
  check_in_place(master, split ? at::kBFloat16 : at::kFloat, master, "adamw", "master");
  if (split) {
    check_shape_of(*low, master, "adamw", "low");
    check_in_place(*low, at::kShort, master, "adamw", "low");
  }
  check_shape_of(grad, master, "adamw", "grad");
  if (factor && factor->defined()) check_scalar(*factor, master, "adamw", "factor");
  check(step >= 1, "adamw", "step: expected 1 or more, found {}", step);
}

// Moments of FP32 or BF16.
inline void check_moments(const at::Tensor& m, const at::Tensor& v, const at::Tensor& master) {
  check_shape_of(m, master, "adamw", "m");
  check_shape_of(v, master, "adamw", "v");
  const at::ScalarType type = m.scalar_type() == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  check_in_place(m, type, master, "adamw", "m");
  check_in_place(v, type, master, "adamw", "v");
}

// A moment of 8 bits.
inline void check_moment8(const at::Tensor& codes, const at::Tensor& scales,
                          const at::Tensor& master, std::string_view name) {
  check_shape_of(codes, master, "adamw", name);
  check_in_place(codes, at::kByte, master, "adamw", name);
  check_in_place(scales, at::kFloat, master, "adamw", fmt::format("scales of {}", name));
  check_size(scales.numel(), (master.numel() + kMomentBlock - 1) / kMomentBlock, "adamw",
             fmt::format("scales of {}", name));
}

// Lists of one length; those of low halves and of scales may be empty.
inline void check_adamw_list(at::TensorList masters, at::TensorList lows, at::TensorList grads,
                             at::TensorList m, at::TensorList v, at::TensorList m_scales,
                             at::TensorList v_scales, at::ArrayRef<double> weight_decays,
                             at::IntArrayRef seeds) {
  const auto items = static_cast<std::int64_t>(masters.size());
  check(items > 0, "adamw", "expected at least one tensor");
  const auto same = [&](std::size_t size, std::string_view name, bool optional = false) {
    if (!optional || size > 0)
      check_size(static_cast<std::int64_t>(size), items, "adamw",
                 fmt::format("number of {}", name));
  };
  same(grads.size(), "gradients");
  same(m.size(), "m");
  same(v.size(), "v");
  same(weight_decays.size(), "weight decays");
  same(seeds.size(), "seeds");
  same(lows.size(), "low halves", true);
  same(m_scales.size(), "scales of m", true);
  check_size(static_cast<std::int64_t>(v_scales.size()), static_cast<std::int64_t>(m_scales.size()),
             "adamw", "number of scales of v");
}

inline void check_ship(const at::Tensor& master, const at::Tensor& value, const at::Tensor& global,
                       const std::optional<at::Tensor>& amax, std::int64_t rule,
                       std::int64_t global_rule) {
  check(master.defined() && master.dim() >= 1, "ship",
        "master: expected a tensor of at least one dimension");
  const at::ScalarType type = master.scalar_type() == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  check_in_place(master, type, master, "ship", "master");
  check_shape_of(value, master, "ship", "value");
  check_in_place(value, value.scalar_type(), master, "ship", "value");
  check(master.numel() == 0 || master.const_data_ptr() != value.const_data_ptr(), "ship",
        "value: expected other memory than the master's, which it would overwrite");
  check_scalar(global, master, "ship", "global");
  if (amax && amax->defined()) check_scalar(*amax, master, "ship", "amax");
  checked_rule(rule, "ship");
  check(global_rule >= 0 && global_rule <= static_cast<std::int64_t>(nvfp4::GlobalScale::amax),
        "ship", "global scale rule: expected 0 or 1, found {}", global_rule);
}

inline void check_ship_with_scales(const at::Tensor& master, const at::Tensor& value,
                                   const at::Tensor& global, const at::Tensor& scales,
                                   const std::optional<at::Tensor>& amax) {
  check_ship(master, value, global, amax, 0, 0);
  check_in_place(scales, at::kByte, master, "ship", "scales");
  const std::int64_t cols = master.size(-1);
  check_size(scales.numel(), cols == 0 ? 0 : master.numel() / cols * nvfp4::blocks_per_row(cols),
             "ship", "number of block scales");
}

inline void check_ship_list(at::TensorList masters, at::TensorList values, at::TensorList globals,
                            const std::optional<at::Tensor>& amax, at::IntArrayRef rules) {
  const auto items = static_cast<std::int64_t>(masters.size());
  check(items > 0, "ship", "expected at least one tensor");
  check_size(static_cast<std::int64_t>(values.size()), items, "ship", "number of values");
  check_size(static_cast<std::int64_t>(globals.size()), items, "ship", "number of global scales");
  check_size(static_cast<std::int64_t>(rules.size()), items, "ship", "number of rules");
  if (!amax || !amax->defined()) return;
  check_in_place(*amax, at::kFloat, masters[0], "ship", "amax");
  check_size(amax->numel(), items, "ship", "elements of amax");
}

}  // namespace qad::ops
