// Masters to values in one walk through memory: rows are rounded to BF16, their largest magnitude
// noted and quantised while they are in a core's cache.
#include "ops/ship.h"

#include <ATen/ops/stack.h>

#include "nvfp4/global_scale.h"
#include "ops/dispatch.h"
#include "ops/optimizer_checks.h"

namespace qad::ops {
namespace {

using at::Tensor;
using nvfp4::BlockScale, nvfp4::GlobalScale;

// Rows a thread takes at a time: few enough to stay in its cache between the passes over them.
std::int64_t rows_at_a_time(std::int64_t cols) {
  return std::max<std::int64_t>(1, 32768 / cols);
}

float bf16_of(float x) {
  return nvfp4::round_to_bf16(x);
}
float bf16_of(c10::BFloat16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.x) << 16);
}

// to = bf16(from); returns the bits of the largest magnitude.
template <class T>
std::uint32_t round_rows(const T* from, std::int64_t n, float* to) {
  std::uint32_t most = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    to[i] = bf16_of(from[i]);
    most = std::max(most, nvfp4::magnitude_bits(to[i]));
  }
  return most;
}

// value = bf16(master), quantised under `global` unless that is 0; the bits of its largest
// magnitude before that.
template <class T>
std::uint32_t walk(const Tensor& master, const Tensor& value, float global, BlockScale rule) {
  const std::int64_t cols = master.size(-1), rows = cols == 0 ? 0 : master.numel() / cols;
  if (rows == 0) return 0;
  const T* from = master.const_data_ptr<T>();
  float* to = value.mutable_data_ptr<float>();
  const std::int64_t step = rows_at_a_time(cols);
  return at::parallel_reduce(
      0, (rows + step - 1) / step, 1, std::uint32_t{0},
      [&](std::int64_t begin, std::int64_t end, std::uint32_t most) {
        for (std::int64_t row = begin * step; row < std::min(end * step, rows); row += step) {
          const std::int64_t some = std::min(step, rows - row), at = row * cols;
          const std::uint32_t here = round_rows(from + at, some * cols, to + at);
          most = std::max(most, here);
          if (global > 0 && here < nvfp4::kInfinityBits)
            nvfp4::fake_quantize(to + at, some, cols, global, rule, to + at);
        }
        return most;
      },
      [](std::uint32_t a, std::uint32_t b) { return std::max(a, b); });
}

Tensor ship_cpu(const Tensor& master, const Tensor& value, const Tensor& global,
                const std::optional<Tensor>& amax, std::int64_t rule, std::int64_t global_rule) {
  check_ship(master, value, global, amax, rule, global_rule);
  check_in_place(value, at::kFloat, master, "ship", "value");
  const auto blocks = static_cast<BlockScale>(rule);
  float& scale = *global.mutable_data_ptr<float>();
  const bool known = amax && amax->defined();
  const auto walk_under = [&](float global) {
    return master.scalar_type() == at::kFloat ? walk<float>(master, value, global, blocks)
                                              : walk<c10::BFloat16>(master, value, global, blocks);
  };
  // Without an amax the scale of before is tried first: seldom does a weight outgrow it.
  float most = known ? *amax->const_data_ptr<float>() : nvfp4::bf16_amax(walk_under(scale));
  if (std::isfinite(most)) {
    const float needed =
        nvfp4::unchecked_global_scale(most, static_cast<GlobalScale>(global_rule), blocks);
    const bool raise = needed > scale;
    if (!nvfp4::scale_fits(needed)) {
      most = std::numeric_limits<float>::infinity();
    } else if (known || raise) {
      if (raise) scale = needed;
      walk_under(scale);
    }
  }
  return at::scalar_tensor(most, at::kFloat);
}

Tensor ship_list_cpu(at::TensorList masters, at::TensorList values, at::TensorList globals,
                     const std::optional<Tensor>& amax, at::IntArrayRef rules,
                     std::int64_t global_rule) {
  check_ship_list(masters, values, globals, amax, rules);
  const bool known = amax && amax->defined();
  std::vector<Tensor> most;
  for (std::size_t i = 0; i < masters.size(); ++i)
    most.push_back(ship_cpu(masters[i], values[i], globals[i],
                            known ? amax->select(0, static_cast<std::int64_t>(i)) : Tensor(),
                            rules[i], global_rule));
  return at::stack(most);
}

// As walk() does, under the scales of each row's blocks.
template <class T>
std::uint32_t walk_with_scales(const Tensor& master, const Tensor& value, float global,
                               const Tensor& scales) {
  const std::int64_t cols = master.size(-1), rows = cols == 0 ? 0 : master.numel() / cols;
  if (rows == 0) return 0;
  const T* from = master.const_data_ptr<T>();
  float* to = value.mutable_data_ptr<float>();
  const std::uint8_t* s = scales.const_data_ptr<std::uint8_t>();
  const std::int64_t step = rows_at_a_time(cols), blocks = nvfp4::blocks_per_row(cols);
  return at::parallel_reduce(
      0, (rows + step - 1) / step, 1, std::uint32_t{0},
      [&](std::int64_t begin, std::int64_t end, std::uint32_t most) {
        for (std::int64_t row = begin * step; row < std::min(end * step, rows); row += step) {
          const std::int64_t some = std::min(step, rows - row), at = row * cols;
          most = std::max(most, round_rows(from + at, some * cols, to + at));
          nvfp4::fake_quantize_with_scales(to + at, some, cols, global, s + row * blocks, to + at);
        }
        return most;
      },
      [](std::uint32_t a, std::uint32_t b) { return std::max(a, b); });
}

Tensor ship_with_scales_cpu(const Tensor& master, const Tensor& value, const Tensor& global,
                            const Tensor& scales, const std::optional<Tensor>& amax) {
  check_ship_with_scales(master, value, global, scales, amax);
  check_in_place(value, at::kFloat, master, "ship", "value");
  const float g = *global.const_data_ptr<float>();
  const std::uint32_t most = master.scalar_type() == at::kFloat
                                 ? walk_with_scales<float>(master, value, g, scales)
                                 : walk_with_scales<c10::BFloat16>(master, value, g, scales);
  return at::scalar_tensor(nvfp4::bf16_amax(most), at::kFloat);
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def(
      "ship_list_(Tensor[] masters, Tensor(a!)[] values, Tensor(b!)[] scales, Tensor? amax, int[] "
      "rules, int global_rule) -> Tensor");
  m.def(
      "ship_(Tensor master, Tensor(a!) value, Tensor(b!) scale, Tensor? amax, int rule, int "
      "global_rule) -> Tensor");
  m.def(
      "ship_with_scales_(Tensor master, Tensor(a!) value, Tensor scale, Tensor block_scales, "
      "Tensor? amax) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("ship_", ship_cpu);
  m.impl("ship_list_", ship_list_cpu);
  m.impl("ship_with_scales_", ship_with_scales_cpu);
}

}  // namespace

Tensor ship_(const Tensor& master, const Tensor& value, const Tensor& global, const Tensor& amax,
             BlockScale rule, GlobalScale global_rule) {
  static const auto op = find_op<decltype(ship_cpu)>("qad::ship_");
  return call_kernel(op, master, value, global, std::optional<Tensor>(amax),
                     static_cast<std::int64_t>(rule), static_cast<std::int64_t>(global_rule));
}

Tensor ship_with_scales_(const Tensor& master, const Tensor& value, const Tensor& global,
                         const Tensor& scales, const Tensor& amax) {
  static const auto op = find_op<decltype(ship_with_scales_cpu)>("qad::ship_with_scales_");
  return call_kernel(op, master, value, global, scales, std::optional<Tensor>(amax));
}

namespace {

Tensor ship_by_rule(const std::vector<ShipItem>& items, const Tensor& amax,
                    GlobalScale global_rule) {
  static const auto op = find_op<decltype(ship_list_cpu)>("qad::ship_list_");
  std::vector<Tensor> masters, values, globals;
  std::vector<std::int64_t> rules;
  for (const ShipItem& item : items) {
    masters.push_back(item.master);
    values.push_back(item.value);
    globals.push_back(item.global);
    rules.push_back(static_cast<std::int64_t>(item.rule));
  }
  return call_kernel(op, masters, values, globals, std::optional<Tensor>(amax), rules,
                     static_cast<std::int64_t>(global_rule));
}

}  // namespace

Tensor ship_(const std::vector<ShipItem>& items, const Tensor& amax, GlobalScale global_rule) {
  const auto chosen = [](const ShipItem& item) { return item.scales.defined(); };
  const auto by_rule = [&](const ShipItem& item) {
    return !chosen(item) && item.precision == Precision::nvfp4;
  };
  if (std::all_of(items.begin(), items.end(), by_rule))
    return ship_by_rule(items, amax, global_rule);
  std::vector<Tensor> most;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const ShipItem& item = items[i];
    const Tensor known = amax.defined() ? amax.select(0, static_cast<std::int64_t>(i)) : amax;
    if (item.precision == Precision::fp8) {
      most.push_back(ship_fp8_(item.master, item.value, item.global, global_rule));
      continue;
    }
    most.push_back(
        chosen(item) ? ship_with_scales_(item.master, item.value, item.global, item.scales, known)
                     : ship_(item.master, item.value, item.global, known, item.rule, global_rule));
  }
  return at::stack(most);
}

}  // namespace qad::ops
