// What the implementations of Mamba's operators check alike on every device.
#pragma once

#include "ops/checks.h"

namespace qad::ops {

struct ScanDims {
  std::int64_t tokens, heads, dim, groups, state;
  std::int64_t inner() const { return heads * dim; }
};
// xbc [T, D + 2 G N] and dt [T, heads] have two dimensions.
inline ScanDims checked_scan_dims(const at::Tensor& xbc, const at::Tensor& dt, std::int64_t dim,
                                  std::int64_t groups, double least, double most,
                                  std::string_view operation) {
  const std::int64_t tokens = xbc.size(0), heads = dt.size(1);
  check_size(dt.size(0), tokens, operation, "rows of dt");
  check(dim > 0 && groups > 0 && heads % groups == 0, operation,
        "heads: expected a multiple of {} groups, found {} of {}", groups, heads, dim);
  const std::int64_t of_groups = xbc.size(1) - heads * dim, state = of_groups / (2 * groups);
  check(state > 0 && of_groups == 2 * groups * state, operation,
        "xbc: expected {} columns of x, and B and C of {} groups, found {}", heads * dim, groups,
        xbc.size(1));
  check(least >= 0 && most > least, operation,
        "time steps: expected rising limits from 0, found {} {}", least, most);
  return {tokens, heads, dim, groups, state};
}

inline void check_scan_state(const at::Tensor& state, const ScanDims& s,
                             std::string_view operation) {
  check(state.dim() == 4 && state.is_contiguous() &&
            state.sizes().slice(1) == at::IntArrayRef({s.heads, s.dim, s.state}),
        operation, "state: expected contiguous [slots, {}, {}, {}], found {}", s.heads, s.dim,
        s.state, describe(state));
}

// weight [C, 1, K], K at most `taps`.
inline void check_taps(const at::Tensor& x, const at::Tensor& weight, std::int64_t taps,
                       std::string_view operation) {
  check(weight.size(0) == x.size(1) && weight.size(1) == 1 && weight.size(2) >= 1 &&
            weight.size(2) <= taps,
        operation, "weight: expected [{}, 1, 1 to {} taps], found {}", x.size(1), taps,
        describe(weight));
}
inline void check_conv_state(const at::Tensor& state, std::int64_t past, std::int64_t channels,
                             std::string_view operation) {
  check(state.dim() == 3 && state.is_contiguous() && state.size(1) == past &&
            state.size(2) == channels,
        operation, "state: expected contiguous [slots, {}, {}], found {}", past, channels,
        describe(state));
}

}  // namespace qad::ops
