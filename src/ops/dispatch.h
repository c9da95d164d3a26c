// What every operator's file needs to go through PyTorch's dispatcher: the typed handle of an
// operator, and the checks at the boundary.
#pragma once

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "ops/checks.h"
#include "ops/threads.h"

namespace qad::ops {

// Calls an operator below autograd, so that its kernel is picked by device alone.
template <class F, class... Args>
auto call_kernel(const c10::TypedOperatorHandle<F>& op, Args&&... args) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(std::forward<Args>(args)...);
}

// The operator of that name; F is its signature, which is that of its CPU implementation.
template <class F>
c10::TypedOperatorHandle<F> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<F>();
}

inline void check_floats(const at::Tensor& t, std::int64_t dims, std::string_view operation,
                         std::string_view name) {
  check_tensor(t, at::kFloat, dims, operation, name);
}

inline void check_ints(const at::Tensor& t, at::ScalarType type, std::string_view operation,
                       std::string_view name) {
  check_tensor(t, type, 1, operation, name);
}

// Rows one thread should get at least: about 16 thousand elements, some 5 us of work, against
// the 2 us that a parallel region costs.
inline std::int64_t row_grain(std::int64_t cols) {
  return std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, cols));
}

}  // namespace qad::ops
