// Rows in groups, group g being rows [offsets[g], offsets[g + 1]): how the CPU's implementations
// read the offsets, and quantise rows that they have just computed, each under its group's scale.
#pragma once

#include <algorithm>
#include <atomic>
#include <span>
#include <string>
#include <vector>

#include "ops/experts.h"
#include "ops/quantized_rows.h"

namespace qad::ops {

// The arguments of a schema with "float[] global_scales, int rule, Tensor(a!)? clipped".
struct GroupQuantizerArguments {
  std::vector<double> globals;
  std::int64_t rule = 0;
  std::optional<at::Tensor> clipped;  // none: not quantised

  explicit GroupQuantizerArguments(const GroupQuantizer* q) {
    if (q == nullptr) return;
    globals = q->globals;
    rule = static_cast<std::int64_t>(q->rule);
    clipped = q->clipped;
  }
};

// int32 [groups + 1] that cut `rows` rows.
inline std::span<const std::int32_t> checked_offsets(const at::Tensor& offsets, std::int64_t rows,
                                                     std::string_view operation) {
  check_ints(offsets, at::kInt, operation, "offsets");
  check(offsets.is_contiguous() && offsets.numel() > 0, operation,
        "offsets: expected contiguous offsets, found {}", describe(offsets));
  const std::span all(offsets.const_data_ptr<std::int32_t>(),
                      static_cast<std::size_t>(offsets.numel()));
  check(all.front() == 0 && all.back() == rows && std::is_sorted(all.begin(), all.end()), operation,
        "offsets: expected to rise from 0 to {} rows, found {} to {}", rows, all.front(),
        all.back());
  return all;
}

class GroupedRowQuantizer {
 public:
  // Without offsets all rows are one group.
  GroupedRowQuantizer(std::string_view operation, at::ArrayRef<double> globals, std::int64_t rule,
                      const std::optional<at::Tensor>& offsets, std::int64_t rows,
                      const std::optional<at::Tensor>& clipped) {
    if (!clipped || !clipped->defined()) return;
    if (offsets) {
      const auto found = checked_offsets(*offsets, rows, operation);
      offsets_.assign(found.begin(), found.end());
    } else {
      offsets_ = {0, static_cast<std::int32_t>(rows)};
    }
    rule_ = checked_rule(rule, operation);
    const std::size_t groups = offsets_.size() - 1;
    check_size(static_cast<std::int64_t>(globals.size()), static_cast<std::int64_t>(groups),
               operation, "global scales");
    check(clipped->scalar_type() == at::kLong && clipped->is_contiguous(), operation,
          "clipped: expected contiguous int64, found {}", describe(*clipped));
    check_size(clipped->numel(), static_cast<std::int64_t>(groups), operation, "size of clipped");
    for (const double g : globals) globals_.push_back(g == 0 ? 0 : checked_global(g, operation));
    counts_ = std::vector<std::atomic<std::int64_t>>(groups);
    counters_ = clipped->data_ptr<std::int64_t>();
  }

  // Quantises rows [row, row + rows), which lie at `x`, in place. Any thread may call it.
  void operator()(float* x, std::int64_t row, std::int64_t rows, std::int64_t cols) {
    if (counters_ == nullptr) return;
    const std::int64_t end = row + rows;
    while (row < end) {
      const auto next = std::upper_bound(offsets_.begin(), offsets_.end(), row);
      const auto group = static_cast<std::size_t>(next - offsets_.begin()) - 1;
      const std::int64_t n = std::min<std::int64_t>(*next, end) - row;
      if (globals_[group] != 0)
        counts_[group] += nvfp4::fake_quantize(x, n, cols, globals_[group], rule_, x);
      row += n;
      x += n * cols;
    }
  }
  // When all rows are done.
  void count() {
    for (std::size_t g = 0; g < counts_.size(); ++g) counters_[g] += counts_[g];
  }

 private:
  std::vector<std::int32_t> offsets_;
  std::vector<float> globals_;
  nvfp4::BlockScale rule_ = nvfp4::BlockScale::max;
  std::vector<std::atomic<std::int64_t>> counts_;
  std::int64_t* counters_ = nullptr;
};

}  // namespace qad::ops
