// Attention over a paged cache against the plain formula in double over each sequence's tokens in
// one piece, and what must hold exactly: the cache, batch mates, pages, chunks, threads.
#include "ops/paged_attention.h"

#include <limits>

#include "core/error.h"
#include "nvfp4/nvfp4.h"
#include "ops/ops.h"
#include "reference.h"

namespace qad::ops {
namespace {

using reference::expect_near;
using reference::expect_same;
using reference::random;
using Tensor = at::Tensor;

struct Heads {
  std::int64_t heads, kv_heads, dim;
};
// A sequence's q, k and v of all its tokens, of which `fresh` are given in the call under test.
struct Sequence {
  std::int64_t length, fresh;
  std::int64_t shared = 0;  // so many tokens are those of sequence 0, in its pages: whole pages
};

// A batch with its cache: pages in a shuffled order, and NaN wherever nothing was stored.
struct Batch {
  Heads h;
  std::int64_t page_tokens;
  std::vector<Sequence> sequences;
  std::vector<Tensor> tokens;  // [length, heads + 2 kv_heads, D] of each
  Tensor keys, values;
  double key_scale = 1, value_scale = 1;  // of a cache of codes
  std::vector<std::vector<std::int32_t>> pages;

  Batch(const Heads& heads, std::int64_t page, std::vector<Sequence> s, double size = 1)
      : h(heads), page_tokens(page), sequences(std::move(s)) {
    std::int64_t count = 3;  // some that nobody has
    for (const Sequence& one : sequences) count += one.length / page + 1;
    const Tensor order = at::randperm(count, at::kLong);
    keys = at::full({count, page, h.kv_heads, h.dim}, std::numeric_limits<float>::quiet_NaN());
    values = keys.clone();
    std::int64_t next = 0;
    for (const Sequence& one : sequences) {
      Tensor x = random({one.length, h.heads + 2 * h.kv_heads, h.dim}, size);
      std::vector<std::int32_t> own;
      if (one.shared > 0) {
        x.narrow(0, 0, one.shared).copy_(tokens[0].narrow(0, 0, one.shared));
        own.assign(pages[0].begin(), pages[0].begin() + one.shared / page);
      }
      while (static_cast<std::int64_t>(own.size()) * page < one.length)
        own.push_back(static_cast<std::int32_t>(order[next++].item<std::int64_t>()));
      tokens.push_back(x);
      pages.push_back(own);
      store(tokens.size() - 1, one.length - one.fresh);
    }
  }
  // Where the first tokens of a sequence are, in tokens from the beginning of the cache.
  Tensor places(std::size_t s, std::int64_t count) const {
    std::vector<std::int64_t> at;
    for (std::int64_t t = 0; t < count; ++t)
      at.push_back(pages[s][t / page_tokens] * page_tokens + t % page_tokens);
    return at::tensor(at, at::kLong);
  }
  // The keys and values of a sequence's first tokens go to the cache.
  void store(std::size_t s, std::int64_t count) {
    const Tensor x = tokens[s].narrow(0, 0, count), at = places(s, count);
    keys.view({-1, h.kv_heads, h.dim}).index_copy_(0, at, x.narrow(1, h.heads, h.kv_heads));
    values.view({-1, h.kv_heads, h.dim})
        .index_copy_(0, at, x.narrow(1, h.heads + h.kv_heads, h.kv_heads));
  }

  double scale() const { return 1 / std::sqrt(static_cast<double>(h.dim)); }

  // Calls the operator for the sequences [first, end), of each the tokens [from, from + fresh).
  Tensor run(std::size_t first, std::size_t end, std::int64_t skip, std::int64_t most) {
    std::vector<std::int32_t> starts{0}, lengths;
    std::vector<Tensor> fresh;
    std::size_t widest = 0;
    for (std::size_t i = first; i < end; ++i) widest = std::max(widest, pages[i].size());
    Tensor table = at::full(
        {static_cast<std::int64_t>(end - first), static_cast<std::int64_t>(widest)}, -1, at::kInt);
    std::int64_t longest_new = 0, longest = 0;
    for (std::size_t i = first; i < end; ++i) {
      const Sequence& s = sequences[i];
      const std::int64_t n = std::min(most, s.fresh - skip), past = s.length - s.fresh + skip;
      fresh.push_back(tokens[i].narrow(0, past, n));
      starts.push_back(static_cast<std::int32_t>(starts.back() + n));
      lengths.push_back(static_cast<std::int32_t>(past + n));
      longest_new = std::max(longest_new, n), longest = std::max(longest, past + n);
      const auto row = at::tensor(pages[i], at::kInt);
      table[static_cast<std::int64_t>(i - first)].narrow(0, 0, row.numel()).copy_(row);
    }
    return ops::paged_attention(at::cat(fresh), keys, values, at::tensor(starts, at::kInt),
                                at::tensor(lengths, at::kInt), table, longest_new, longest, h.heads,
                                h.kv_heads, scale(), key_scale, value_scale);
  }
  Tensor run() { return run(0, sequences.size(), 0, 1 << 20); }

  Tensor expected() const {
    std::vector<Tensor> out;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const auto n = static_cast<std::int32_t>(sequences[i].length);
      const Tensor all =
          reference::attention(tokens[i].to(at::kDouble), {0, n}, h.heads, h.kv_heads, scale());
      out.push_back(all.narrow(0, n - sequences[i].fresh, sequences[i].fresh));
    }
    return at::cat(out);
  }
};

const std::vector<std::vector<Sequence>> kBatches = {
    {{1, 1}},                               // softmax of one score
    {{70, 1}},                              // decoding of one
    {{33, 1}, {1, 1}, {100, 1}, {64, 1}},   // of several
    {{50, 50}},                             // a prompt
    {{41, 9}, {64, 1}, {20, 20}, {65, 3}},  // chunks of prompts beside decoding
    {{48, 16}, {35, 3, 32}, {40, 1, 16}},   // prefixes in pages of the first
    {{5, 0}, {3, 3}, {0, 0}},               // one that rests, one that is empty
};

TEST(PagedAttention, EqualsAttentionOverTheWholeSequence) {
  for (const Heads& h : {Heads{1, 1, 8}, {3, 1, 64}, {9, 3, 64}, {8, 1, 80}, {4, 2, 5}, {11, 1, 8}})
    for (const std::int64_t page : {1, 4, 16})
      for (std::size_t i = 0; i < kBatches.size(); ++i) {
        const double size = page == 4 ? 6 : 1;  // peaked and flat distributions
        Batch b(h, page, kBatches[i], size);
        const std::string what = fmt::format("{} of {} heads of {}, pages of {}, batch {}, size {}",
                                             h.kv_heads, h.heads, h.dim, page, i, size);
        // As ops::attention: a score of magnitude size^2 sqrt(dim) carries that many roundings
        // into the exponent.
        const double score = 1 + size * size * std::sqrt(static_cast<double>(h.dim));
        expect_near(b.run(), b.expected(), 16 + 4 * score, what);
        for (std::size_t s = 0; s < b.sequences.size(); ++s) {
          const Tensor at = b.places(s, b.sequences[s].length);
          const auto cached = [&](const Tensor& cache) {
            return cache.view({-1, h.kv_heads, h.dim}).index_select(0, at);
          };
          expect_same(cached(b.keys), b.tokens[s].narrow(1, h.heads, h.kv_heads), what);
          expect_same(cached(b.values), b.tokens[s].narrow(1, h.heads + h.kv_heads, h.kv_heads),
                      what);
        }
      }
}

TEST(PagedAttention, WritesNothingButTheNewTokens) {
  Batch b({4, 2, 8}, 4, {{10, 3}, {6, 1}});
  const Tensor before = b.keys.clone();
  b.run();
  // 3 and 1 tokens of 2 heads of 8 values; NaN differs from itself, so what was NaN is left out
  EXPECT_EQ((before.isnan() & ~b.keys.isnan()).sum().item<std::int64_t>(), 4 * 2 * 8);
  EXPECT_EQ(((before != b.keys) & ~before.isnan()).sum().item<std::int64_t>(), 0);
}

TEST(PagedAttention, NeitherNeighboursNorPagesNorThreadsChangeABit) {
  for (const Heads& h : {Heads{3, 1, 64}, {8, 1, 80}, {2, 2, 8}}) {
    const std::vector<Sequence> sequences{{41, 9}, {300, 1}, {90, 90}, {65, 3}};
    Batch b(h, 16, sequences), paged(h, 1, sequences);
    const int threads = at::get_num_threads();
    at::set_num_threads(1);
    const Tensor together = b.run();
    at::set_num_threads(2);
    expect_same(b.run(), together, "threads");
    at::set_num_threads(threads);
    std::int64_t row = 0;
    for (std::size_t s = 0; s < sequences.size(); ++s) {
      const std::int64_t n = sequences[s].fresh;
      expect_same(b.run(s, s + 1, 0, n), together.narrow(0, row, n), "alone");
      row += n;
      // the same tokens in other pages
      paged.tokens[s] = b.tokens[s];
      paged.store(s, sequences[s].length - n);
    }
    expect_same(paged.run(), together, "pages of one token");
  }
}

TEST(PagedAttention, APromptInChunksIsThePromptInOne) {
  for (const Heads& h : {Heads{1, 1, 8}, {3, 1, 64}, {9, 3, 64}, {8, 1, 80}}) {
    Batch b(h, 16, {{150, 150}});
    const Tensor whole = b.run();
    for (const std::int64_t chunk : {1, 7, 64, 149}) {
      b.keys.fill_(std::numeric_limits<float>::quiet_NaN());
      b.values.fill_(std::numeric_limits<float>::quiet_NaN());
      std::vector<Tensor> parts;
      for (std::int64_t at = 0; at < 150; at += chunk) parts.push_back(b.run(0, 1, at, chunk));
      expect_same(at::cat(parts), whole, fmt::format("chunks of {}", chunk));
    }
  }
}

TEST(PagedAttention, NeverLooksAhead) {
  Batch b({2, 1, 8}, 4, {{30, 30}});
  const Tensor before = b.run();
  b.tokens[0].narrow(0, 21, 9).fill_(std::numeric_limits<float>::quiet_NaN());
  expect_same(b.run().narrow(0, 0, 21), before.narrow(0, 0, 21), "earlier tokens");
}

// A cache of E4M3 codes is a cache of the floats that they decode to: of x stored with scale s,
// e4m3(x / s) * s. The plain definition makes those floats, and every bit is the same.
TEST(PagedAttention, ReadsCodesAsTheirValues) {
  const double key_scale = 0.013, value_scale = 0.25;
  for (const Heads& h : {Heads{1, 1, 8}, {3, 1, 64}, {9, 3, 64}, {8, 1, 80}, {4, 2, 5}}) {
    Batch coded(h, 16, {{150, 150}, {1, 1}, {37, 37}});
    Batch plain = coded;
    plain.keys = coded.keys.clone(), plain.values = coded.values.clone();
    coded.keys = at::full(coded.keys.sizes(), 0x7F, at::kByte);  // NaN
    coded.values = coded.keys.clone();
    coded.key_scale = key_scale, coded.value_scale = value_scale;
    for (std::size_t s = 0; s < coded.tokens.size(); ++s) {
      Tensor& x = plain.tokens[s] = coded.tokens[s].clone();
      // Some beyond 448 scales, and some far below the smallest code.
      coded.tokens[s].narrow(1, h.heads, 2 * h.kv_heads).mul_(3).flatten(1).select(1, 1).mul_(1e-6);
      const auto round = [&](std::int64_t first, float scale) {
        const Tensor part = coded.tokens[s].narrow(1, first, h.kv_heads).contiguous().clone();
        float* p = part.data_ptr<float>();
        for (std::int64_t i = 0; i < part.numel(); ++i)
          p[i] = nvfp4::e4m3_decode(nvfp4::e4m3_encode(p[i] / scale)) * scale;
        x.narrow(1, first, h.kv_heads).copy_(part);
      };
      round(h.heads, static_cast<float>(key_scale));
      round(h.heads + h.kv_heads, static_cast<float>(value_scale));
    }
    const std::string what = fmt::format("{} of {} heads of {}", h.kv_heads, h.heads, h.dim);
    expect_same(coded.run(0, 3, 0, 100), plain.run(0, 3, 0, 100), what + ", first tokens");
    expect_same(coded.run(0, 1, 100, 1), plain.run(0, 1, 100, 1), what + ", one more");
    expect_same(coded.run(0, 1, 101, 49), plain.run(0, 1, 101, 49), what + ", the rest");
  }
}

struct Refused {
  std::vector<int> starts, lengths, pages;
  std::int64_t longest_new, longest, kv_heads;
  const char* found;
};

TEST(PagedAttention, RefusesWhatDoesNotFitAndNamesIt) {
  // 5 tokens of 2 sequences, one kv head, 4 pages of 4 tokens, 2 pages a sequence
  const Refused cases[] = {
      {{0, 3}, {3}, {0, 1}, 9, 9, 1, "expected to run from 0 to 5 tokens, found 0 to 3"},
      {{1, 3, 5}, {3, 2}, {0, 1, 2, 3}, 9, 9, 1, "found 1 to 5"},
      {{0, 6, 5}, {6, 2}, {0, 1, 2, 3}, 9, 9, 1, "expected rising values, found 6 before 5"},
      {{0, 3, 5}, {3, 1}, {0, 1, 2, 3}, 9, 9, 1, "the 2 new tokens of sequence 1, found 1"},
      {{0, 3, 5}, {3, 9}, {0, 1, 2, 3}, 9, 9, 1, "expected 3 for the 9 tokens of sequence 1"},
      {{0, 3, 5},
       {3, 6},
       {0, 1, 2, 4},
       9,
       9,
       1,
       "expected 0 to 3, found 4 as page 1 of sequence 1"},
      {{0, 3, 5}, {3, 2}, {0, 1, -1, 3}, 9, 9, 1, "found -1 as page 0 of sequence 1"},
      {{0, 3, 5}, {3, 2}, {2, 1, 2, 3}, 9, 9, 1, "several for place 0 of page 2"},
      {{0, 3, 5}, {3, 2}, {0, 1, 2, 3}, 2, 9, 1, "at most 2 new tokens of a sequence, found 3"},
      {{0, 3, 5}, {3, 7}, {0, 1, 2, 3}, 9, 6, 1, "at most 6 tokens, found 7 of sequence 1"},
      {{0, 3, 5}, {3, 2, 1}, {0, 1, 2, 3}, 9, 9, 1, "Int [3] on cpu, Int [3] on cpu"},
      {{0, 3, 5}, {3, 2}, {0, 1, 2, 3}, 9, 9, 2, "heads of qkv: expected 6, found 4"},
  };
  for (const Refused& c : cases) {
    const auto sequences = static_cast<std::int64_t>(c.pages.size()) / 2;
    try {
      ops::paged_attention(at::zeros({5, 4, 8}), at::zeros({4, 4, 1, 8}), at::zeros({4, 4, 1, 8}),
                           at::tensor(c.starts, at::kInt), at::tensor(c.lengths, at::kInt),
                           at::tensor(c.pages, at::kInt).view({sequences, 2}), c.longest_new,
                           c.longest, 2, c.kv_heads, 1);
      ADD_FAILURE() << c.found;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(c.found), std::string::npos) << e.what();
    }
  }
  Batch b({2, 1, 8}, 4, {{3, 3}});
  b.keys = b.keys.transpose(0, 1);
  EXPECT_THROW(b.run(), Error);
  Batch g({2, 1, 8}, 4, {{3, 3}});
  g.tokens[0].requires_grad_();
  EXPECT_THROW(g.run(), Error);
}

}  // namespace
}  // namespace qad::ops
