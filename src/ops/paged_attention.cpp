// The operator around paged_attention_kernel. Work is handed out by sequence and key-value head,
// and by pieces of a prompt where those are few; each is computed the same on any thread.
#include "ops/paged_attention.h"

#include <ATen/ops/empty.h>

#include "nvfp4/nvfp4.h"
#include "ops/autograd.h"
#include "ops/dispatch.h"
#include "ops/paged_attention_kernel.h"
#include "ops/tasks.h"

namespace qad::ops {
namespace {

using at::Tensor;

constexpr const char* kName = "paged_attention";

struct Cache {
  void *keys, *values;  // floats or, with e4m3, codes
  bool e4m3;
  float key_scale, value_scale;
  std::int64_t count, page_tokens, stride;  // stride: elements from one token to the next
};

// Sequences, as the integers on the CPU have them.
struct Sequences {
  std::int64_t count, per_row;
  const std::int32_t *starts, *lengths, *pages;
  std::int64_t fresh(std::int64_t s) const { return starts[s + 1] - starts[s]; }
  std::int64_t past(std::int64_t s) const { return lengths[s] - fresh(s); }
  const std::int32_t* pages_of(std::int64_t s) const { return pages + s * per_row; }
};

Cache check_cache(const Tensor& qkv, const Tensor& keys, const Tensor& values, double key_scale,
                  double value_scale, std::int64_t heads, std::int64_t kv_heads) {
  check_floats(qkv, 3, kName, "qkv");
  const bool e4m3 = keys.scalar_type() == at::kByte;
  check_tensor(keys, e4m3 ? at::kByte : at::kFloat, 4, kName, "keys");
  check_tensor(values, keys.scalar_type(), 4, kName, "values");
  check_cache_scales(e4m3, key_scale, value_scale, kName);
  check(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, kName,
        "heads: expected a multiple of {} key-value heads, found {}", kv_heads, heads);
  check_size(qkv.size(1), heads + 2 * kv_heads, kName, "heads of qkv");
  check(keys.is_contiguous() && values.is_contiguous() && keys.sizes() == values.sizes() &&
            keys.size(1) > 0 && keys.size(2) == kv_heads && keys.size(3) == qkv.size(2),
        kName,
        "keys and values: expected contiguous [pages, page tokens, {}, {}] both, found {} and {}",
        kv_heads, qkv.size(2), describe(keys), describe(values));
  return {keys.data_ptr(),
          values.data_ptr(),
          e4m3,
          static_cast<float>(key_scale),
          static_cast<float>(value_scale),
          keys.size(0),
          keys.size(1),
          kv_heads * qkv.size(2)};
}

void check_pages(const Sequences& all, std::int64_t s, const Cache& cache) {
  const std::int64_t needed = (all.lengths[s] + cache.page_tokens - 1) / cache.page_tokens;
  check(needed <= all.per_row, kName,
        "pages: expected {} for the {} tokens of sequence {}, {} a page, found {}", needed,
        all.lengths[s], s, cache.page_tokens, all.per_row);
  for (std::int64_t p = 0; p < needed; ++p)
    check(all.pages_of(s)[p] >= 0 && all.pages_of(s)[p] < cache.count, kName,
          "pages: expected 0 to {}, found {} as page {} of sequence {}", cache.count - 1,
          all.pages_of(s)[p], p, s);
}

Sequences check_sequences(const Tensor& starts, const Tensor& lengths, const Tensor& pages,
                          std::int64_t tokens, std::int64_t longest_new, std::int64_t longest,
                          const Cache& cache) {
  check_ints(starts, at::kInt, kName, "starts");
  check_ints(lengths, at::kInt, kName, "lengths");
  check_tensor(pages, at::kInt, 2, kName, "pages");
  check(starts.is_contiguous() && lengths.is_contiguous() && pages.is_contiguous() &&
            starts.numel() == lengths.numel() + 1 && pages.size(0) == lengths.numel(),
        kName, "expected contiguous starts [S + 1], lengths [S] and pages [S, P], found {}",
        describe_all(starts, lengths, pages));
  const Sequences all{lengths.numel(), pages.size(1), starts.const_data_ptr<std::int32_t>(),
                      lengths.const_data_ptr<std::int32_t>(), pages.const_data_ptr<std::int32_t>()};
  check(all.starts[0] == 0 && all.starts[all.count] == tokens, kName,
        "starts: expected to run from 0 to {} tokens, found {} to {}", tokens, all.starts[0],
        all.starts[all.count]);
  for (std::int64_t s = 0; s < all.count; ++s) {
    check(all.fresh(s) >= 0, kName, "starts: expected rising values, found {} before {}",
          all.starts[s], all.starts[s + 1]);
    check(all.fresh(s) <= longest_new, kName,
          "starts: expected at most {} new tokens of a sequence, found {} of sequence {}",
          longest_new, all.fresh(s), s);
    check(all.past(s) >= 0, kName,
          "lengths: expected at least the {} new tokens of sequence {}, found {}", all.fresh(s), s,
          all.lengths[s]);
    check(all.lengths[s] <= longest, kName,
          "lengths: expected at most {} tokens, found {} of sequence {}", longest, all.lengths[s],
          s);
    check_pages(all, s, cache);
  }
  return all;
}

// Where each of the T new tokens goes, as tokens from the beginning of the cache.
std::vector<std::int64_t> new_places(const Sequences& all, const Cache& cache) {
  std::vector<std::int64_t> places;
  for (std::int64_t s = 0; s < all.count; ++s)
    for (std::int64_t t = all.past(s); t < all.lengths[s]; ++t)
      places.push_back(all.pages_of(s)[t / cache.page_tokens] * cache.page_tokens +
                       t % cache.page_tokens);
  std::vector<std::int64_t> sorted = places;
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end())
    fail(kName, "pages: expected one new token a place, found several for place {} of page {}",
         *twice % cache.page_tokens, *twice / cache.page_tokens);
  return places;
}

// A token's keys or values into the cache at `place`.
void store(const float* from, const Cache& cache, void* to, float scale, std::int64_t place) {
  const std::int64_t at = place * cache.stride;
  if (!cache.e4m3) {
    std::copy_n(from, cache.stride, static_cast<float*>(to) + at);
    return;
  }
  auto* codes = static_cast<std::uint8_t*>(to) + at;
  for (std::int64_t i = 0; i < cache.stride; ++i) codes[i] = nvfp4::e4m3_encode(from[i] / scale);
}

const void* of_head(const Cache& cache, const void* all, std::int64_t elements) {
  return static_cast<const std::byte*>(all) + elements * (cache.e4m3 ? 1 : sizeof(float));
}

struct Task {
  std::int64_t sequence, kv, first, tokens;  // the sequence's new tokens from `first` on
};

std::vector<Task> tasks_of(const Sequences& all, std::int64_t kv_heads) {
  constexpr std::int64_t kPiece = 64;  // tokens: enough that transposing the keys again is little
  const bool few = all.count * kv_heads < 4 * at::get_num_threads();
  std::vector<Task> tasks;
  for (std::int64_t s = 0; s < all.count; ++s) {
    const std::int64_t fresh = all.fresh(s), piece = few ? std::min(kPiece, fresh) : fresh;
    for (std::int64_t first = 0; first < fresh; first += piece)
      for (std::int64_t kv = 0; kv < kv_heads; ++kv)
        tasks.push_back({s, kv, first, std::min(piece, fresh - first)});
  }
  return tasks;
}

Tensor paged_attention_cpu(const Tensor& qkv, const Tensor& keys, const Tensor& values,
                           const Tensor& starts, const Tensor& lengths, const Tensor& pages,
                           std::int64_t longest_new, std::int64_t longest, std::int64_t heads,
                           std::int64_t kv_heads, double scale, double key_scale,
                           double value_scale) {
  const Cache cache = check_cache(qkv, keys, values, key_scale, value_scale, heads, kv_heads);
  const Tensor in = qkv.contiguous();
  const std::int64_t tokens = in.size(0), dim = in.size(2), group = heads / kv_heads;
  const Sequences all =
      check_sequences(starts, lengths, pages, tokens, longest_new, longest, cache);
  const std::vector<std::int64_t> places = new_places(all, cache);
  const float* from = in.const_data_ptr<float>();
  const std::int64_t in_stride = in.size(1) * dim;
  // All are stored before any is read: a piece of a prompt reads those of the pieces before it.
  parallel_for(0, tokens, row_grain(2 * cache.stride), [&](std::int64_t t, std::int64_t end) {
    for (; t < end; ++t) {
      const float* k = from + t * in_stride + heads * dim;
      store(k, cache, cache.keys, cache.key_scale, places[t]);
      store(k + cache.stride, cache, cache.values, cache.value_scale, places[t]);
    }
  });
  Tensor out = at::empty({tokens, heads * dim}, in.options());
  float* to = out.data_ptr<float>();
  const std::vector<Task> tasks = tasks_of(all, kv_heads);
  std::int64_t scratch = 0;
  for (const Task& t : tasks)
    scratch = std::max(
        scratch,
        paged_attention_scratch(t.tokens, group, all.past(t.sequence) + t.first + t.tokens, dim));
  for_tasks(static_cast<std::int64_t>(tasks.size()), scratch, [&](std::int64_t i, float* floats) {
    const Task& t = tasks[i];
    const std::int64_t row = all.starts[t.sequence] + t.first, head = t.kv * group;
    const PagedHeads part{.q = from + row * in_stride + head * dim,
                          .q_stride = in_stride,
                          .tokens = t.tokens,
                          .group = group,
                          .dim = dim,
                          .past = all.past(t.sequence) + t.first,
                          .keys = of_head(cache, cache.keys, t.kv * dim),
                          .values = of_head(cache, cache.values, t.kv * dim),
                          .kv_stride = cache.stride,
                          .e4m3 = cache.e4m3,
                          .key_scale = cache.key_scale,
                          .value_scale = cache.value_scale,
                          .pages = all.pages_of(t.sequence),
                          .page_tokens = cache.page_tokens,
                          .scale = static_cast<float>(scale)};
    paged_attention_heads(part, to + (row * heads + head) * dim, heads * dim, floats);
  });
  return out;
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def(
      "paged_attention(Tensor qkv, Tensor(a!) keys, Tensor(b!) values, Tensor starts, Tensor "
      "lengths, Tensor pages, int longest_new, int longest, int heads, int kv_heads, float scale, "
      "float key_scale, float value_scale) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("paged_attention", paged_attention_cpu);
}

}  // namespace

Tensor paged_attention(const Tensor& qkv, const Tensor& keys, const Tensor& values,
                       const Tensor& starts, const Tensor& lengths, const Tensor& pages,
                       std::int64_t longest_new, std::int64_t longest, std::int64_t heads,
                       std::int64_t kv_heads, double scale, double key_scale, double value_scale) {
  check(!recording({&qkv, &keys, &values}), kName,
        "it has no gradient, and one is asked for: call it under at::NoGradGuard");
  static const auto op = find_op<decltype(paged_attention_cpu)>("qad::paged_attention");
  return call_kernel(op, qkv, keys, values, starts, lengths, pages, longest_new, longest, heads,
                     kv_heads, scale, key_scale, value_scale);
}

}  // namespace qad::ops
