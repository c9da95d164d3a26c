// The documents of flat tokens as implementations on a CPU see them: their integers are checked
// once, at the operator's boundary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace qad::ops {

// Document i is tokens [starts[i], starts[i + 1]). Valid as long as the tensor it came from.
struct Documents {
  std::int64_t count = 0, longest = 0;
  const std::int32_t* starts = nullptr;
  std::int64_t tokens(std::int64_t i) const { return starts[i + 1] - starts[i]; }
};
// Throws Error unless cu_seqlens, int32 [documents + 1] and contiguous, rises from 0 to `tokens` by
// no more than `longest` at a time.
Documents checked_documents(const at::Tensor& cu_seqlens, std::int64_t tokens, std::int64_t longest,
                            std::string_view operation);

// For each token where its document starts.
std::vector<std::int32_t> starts_by_token(const Documents& documents);

// Documents that go on from a state which is kept in a slot for each.
struct Continued {
  const std::int32_t *lengths, *slots;
  // Whether document i begins here, with no state before it.
  bool begins(const Documents& d, std::int64_t i) const { return lengths[i] == d.tokens(i); }
};
// Throws Error unless lengths, int32 [documents], count each document's tokens and those before,
// and slots, int32 [documents], are different numbers below `count`.
Continued checked_slots(const at::Tensor& lengths, const at::Tensor& slots, std::int64_t count,
                        const Documents& documents, std::string_view operation);

}  // namespace qad::ops
