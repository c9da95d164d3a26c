// From lists to tensors.
#include "models/tokens.h"

#include <algorithm>

#include "core/error.h"

namespace qad::models {

Tokens Tokens::to(at::Device device) const {
  Tokens there = *this;
  for (at::Tensor* t : {&there.ids, &there.positions, &there.cu_seqlens}) *t = t->to(device);
  return there;
}

Tokens make_tokens(const std::vector<std::int64_t>& ids, const std::vector<std::int32_t>& ends) {
  Tokens tokens;
  std::vector<std::int64_t> positions;
  positions.reserve(ids.size());
  std::vector<std::int32_t> starts{0};
  for (const std::int32_t end : ends) {
    const std::int64_t length = end - starts.back();
    check(length >= 0, "tokens", "expected documents that end in order, found {} after {}", end,
          starts.back());
    for (std::int64_t i = 0; i < length; ++i) positions.push_back(i);
    starts.push_back(end);
    tokens.longest = std::max(tokens.longest, length);
  }
  check(positions.size() == ids.size(), "tokens",
        "expected documents that cover all {} ids, found {}", ids.size(), positions.size());
  if (!ids.empty()) {
    const auto [least, most] = std::minmax_element(ids.begin(), ids.end());
    tokens.least_id = *least;
    tokens.most_id = *most;
  }
  tokens.ids = at::tensor(ids);
  tokens.positions = at::tensor(positions);
  tokens.cu_seqlens = at::tensor(starts, at::kInt);
  return tokens;
}

Tokens tokens_of(const std::vector<std::vector<std::int32_t>>& documents) {
  std::vector<std::int64_t> ids;
  std::vector<std::int32_t> ends;
  for (const auto& document : documents) {
    ids.insert(ids.end(), document.begin(), document.end());
    ends.push_back(static_cast<std::int32_t>(ids.size()));
  }
  return make_tokens(ids, ends);
}

}  // namespace qad::models
