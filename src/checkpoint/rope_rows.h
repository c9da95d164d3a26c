// The two row orders of q and k projections. Hugging Face rotates a head's value i with i + d/2
// (half-split); ggml's Llama and llama2.c rotate 2i with 2i + 1 (interleaved). The same model in
// either order differs only in the rows of q and k.
#pragma once

#include <cstdint>

namespace qad::checkpoint {

// Where an interleaved file has the row that is number `row` in half-split order.
constexpr std::int64_t interleaved_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t head = row / head_dim, in_head = row % head_dim, half = head_dim / 2;
  return head * head_dim + 2 * (in_head % half) + in_head / half;
}

}  // namespace qad::checkpoint
