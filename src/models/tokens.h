// The flat tokens of a batch: several documents one behind the other.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace qad::models {

struct Tokens {
  at::Tensor ids;         // int64 [T]
  at::Tensor positions;   // int64 [T], from 0 in each document
  at::Tensor cu_seqlens;  // int32 [documents + 1]
  // What the host must know of the above, so that nobody has to wait for a device to tell.
  std::int64_t longest = 0;                // tokens of the longest document
  std::int64_t least_id = 0, most_id = 0;  // of ids

  Tokens to(at::Device device) const;
};

// ends: where each document ends, rising; the last is the number of ids.
Tokens make_tokens(const std::vector<std::int64_t>& ids, const std::vector<std::int32_t>& ends);
Tokens tokens_of(const std::vector<std::vector<std::int32_t>>& documents);

}  // namespace qad::models
