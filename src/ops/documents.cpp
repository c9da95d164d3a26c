#include "ops/documents.h"

#include "ops/dispatch.h"

namespace qad::ops {

Documents checked_documents(const at::Tensor& cu_seqlens, std::int64_t tokens, std::int64_t longest,
                            std::string_view operation) {
  check_ints(cu_seqlens, at::kInt, operation, "cu_seqlens");
  check(cu_seqlens.is_contiguous() && cu_seqlens.numel() >= 1, operation,
        "cu_seqlens: expected contiguous document starts and the number of tokens, found {} values",
        cu_seqlens.numel());
  Documents d{cu_seqlens.numel() - 1, 0, cu_seqlens.const_data_ptr<std::int32_t>()};
  check(d.starts[0] == 0 && d.starts[d.count] == tokens, operation,
        "cu_seqlens: expected to run from 0 to {} tokens, found {} to {}", tokens, d.starts[0],
        d.starts[d.count]);
  for (std::int64_t i = 0; i < d.count; ++i) {
    check(d.tokens(i) >= 0, operation, "cu_seqlens: expected rising values, found {} before {}",
          d.starts[i], d.starts[i + 1]);
    d.longest = std::max(d.longest, d.tokens(i));
  }
  check(d.longest <= longest, operation,
        "cu_seqlens: expected documents of at most {} tokens, "
        "found one of {}",
        longest, d.longest);
  return d;
}

std::vector<std::int32_t> starts_by_token(const Documents& d) {
  std::vector<std::int32_t> starts;
  starts.reserve(static_cast<std::size_t>(d.starts[d.count]));
  for (std::int64_t i = 0; i < d.count; ++i)
    starts.insert(starts.end(), static_cast<std::size_t>(d.tokens(i)), d.starts[i]);
  return starts;
}

Continued checked_slots(const at::Tensor& lengths, const at::Tensor& slots, std::int64_t count,
                        const Documents& documents, std::string_view operation) {
  check_ints(lengths, at::kInt, operation, "lengths");
  check_ints(slots, at::kInt, operation, "slots");
  check(lengths.is_contiguous() && slots.is_contiguous() && lengths.numel() == documents.count &&
            slots.numel() == documents.count,
        operation, "lengths and slots: expected contiguous, one a document of {}, found {}",
        documents.count, describe_all(lengths, slots));
  const Continued c{lengths.const_data_ptr<std::int32_t>(), slots.const_data_ptr<std::int32_t>()};
  std::vector<bool> taken(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < documents.count; ++i) {
    check(c.lengths[i] >= documents.tokens(i), operation,
          "lengths: expected at least the {} new tokens of document {}, found {}",
          documents.tokens(i), i, c.lengths[i]);
    check(c.slots[i] >= 0 && c.slots[i] < count, operation,
          "slots: expected 0 to {}, found {} for document {}", count - 1, c.slots[i], i);
    check(!taken[static_cast<std::size_t>(c.slots[i])], operation,
          "slots: expected one for each document, found {} again for document {}", c.slots[i], i);
    taken[static_cast<std::size_t>(c.slots[i])] = true;
  }
  return c;
}

}  // namespace qad::ops
