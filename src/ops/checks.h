// Checks of tensors at an operator's boundary, for the implementations of every device. They run on
// every call, so a message is made only when there is something to say.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"
#include "nvfp4/nvfp4.h"

namespace qad::ops {

// "float [3, 5] on cpu"
inline std::string describe(const at::Tensor& t) {
  if (!t.defined()) return "an undefined tensor";
  std::string shape;
  for (const std::int64_t n : t.sizes()) shape += (shape.empty() ? "" : ", ") + std::to_string(n);
  return fmt::format("{} [{}] on {}", c10::toString(t.scalar_type()), shape, t.device().str());
}

// "float [3, 5] on cuda:0, long int [3] on cuda:0", without those that are undefined
template <class... Tensors>
std::string describe_all(const Tensors&... tensors) {
  std::string all;
  const auto add = [&](const at::Tensor& t) {
    if (t.defined()) all += (all.empty() ? "" : ", ") + describe(t);
  };
  (add(tensors), ...);
  return all;
}

// f(), which calls PyTorch's operators: their error becomes one that names ours and its inputs.
// A full memory stays what it is: callers know what to do then.
template <class F, class... Tensors>
auto named(std::string_view operation, F&& f, const Tensors&... inputs) {
  try {
    return f();
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::Error& e) {
    fail(operation, "{}; inputs: {}", e.what_without_backtrace(), describe_all(inputs...));
  }
}

inline void check_tensor(const at::Tensor& t, at::ScalarType type, std::int64_t dims,
                         std::string_view operation, std::string_view name) {
  if (!t.defined() || t.scalar_type() != type || t.dim() != dims)
    fail(operation, "{}: expected {} dimension{} of {}, found {}", name, dims, dims == 1 ? "" : "s",
         c10::toString(type), describe(t));
}

inline void check_size(std::int64_t found, std::int64_t expected, std::string_view operation,
                       std::string_view what) {
  check(found == expected, operation, "{}: expected {}, found {}", what, expected, found);
}

// Of keys and values in FP8; a cache that holds no codes has none.
inline void check_cache_scales(bool codes, double key_scale, double value_scale,
                               std::string_view operation) {
  const auto fits = [](double s) { return s > 0x1p-100 && s < 0x1p100; };
  check(codes ? fits(key_scale) && fits(value_scale) : key_scale == 1 && value_scale == 1,
        operation, "key_scale and value_scale: expected {}, found {} and {}",
        codes ? "positive numbers" : "1, as the cache holds no codes", key_scale, value_scale);
}

inline nvfp4::BlockScale checked_rule(std::int64_t rule, std::string_view operation) {
  check(rule >= 0 && rule <= static_cast<std::int64_t>(nvfp4::BlockScale::four_over_six), operation,
        "block scale rule: expected 0, 1 or 2, found {}", rule);
  return static_cast<nvfp4::BlockScale>(rule);
}

}  // namespace qad::ops
