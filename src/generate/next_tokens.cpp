// What crosses between CPU and GPU: a few numbers a text and pass.
#include "generate/next_tokens.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/max.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/error.h"

namespace qad::generate {
namespace {

// Memory that the GPU reads and writes by itself.
at::Tensor pinned(at::IntArrayRef shape, at::ScalarType type) {
  return at::empty(shape, at::TensorOptions().dtype(type).pinned_memory(true));
}

std::int64_t numbers_rounded_up(std::int64_t texts) {
  const auto n = static_cast<std::uint64_t>(texts);
  const std::int64_t step = texts <= 8 ? 1 : texts <= 64 ? 8 : 32;
  return texts <= 8 ? static_cast<std::int64_t>(std::bit_ceil(n))
                    : (texts + step - 1) / step * step;
}

// A pass's inputs one behind the other: int64 ids and positions, int32 lengths, slots and pages.
struct Inputs {
  at::Tensor ids, positions, lengths, slots, pages;
  Inputs(const at::Tensor& bytes, std::int64_t texts, std::int64_t pages_each) {
    std::int64_t at = 0;
    const auto next = [&](std::int64_t count, at::ScalarType type) {
      const auto size = count * static_cast<std::int64_t>(c10::elementSize(type));
      at += size;
      return bytes.narrow(0, at - size, size).view(type);
    };
    ids = next(texts, at::kLong);
    positions = next(texts, at::kLong);
    lengths = next(texts, at::kInt);
    slots = next(texts, at::kInt);
    pages = next(texts * pages_each, at::kInt).view({texts, pages_each});
  }
  static std::int64_t bytes(std::int64_t texts, std::int64_t pages_each) {
    return texts * (8 + 8 + 4 + 4 + 4 * pages_each);
  }
};

}  // namespace

NextLogits next_logits(const at::Tensor& logits) {
  if (logits.is_cpu()) return {logits.to(at::kFloat).contiguous(), {}, {}};
  auto [largest, likeliest] = at::max(logits, 1);
  return {logits, largest, likeliest};
}

LogitRows::LogitRows(const NextLogits& next, const std::vector<bool>& whole)
    : place_(whole.size(), -1), likeliest_(whole.size()) {
  const auto rows = static_cast<std::int64_t>(whole.size());
  if (next.logits.is_cpu()) {
    logits_ = next.logits;
    for (std::int64_t r = 0; r < rows; ++r) place_[static_cast<std::size_t>(r)] = r;
    return;
  }
  std::vector<std::int64_t> asked;
  for (std::size_t r = 0; r < whole.size(); ++r) {
    if (!whole[r]) continue;
    place_[r] = static_cast<std::int64_t>(asked.size());
    asked.push_back(static_cast<std::int64_t>(r));
  }
  if (!asked.empty()) {
    logits_ = pinned({static_cast<std::int64_t>(asked.size()), next.logits.size(1)}, at::kFloat);
    for (std::size_t i = 0, run = 1; i < asked.size(); i += run) {  // neighbours in one go
      for (run = 1; i + run < asked.size() && asked[i + run] == asked[i + run - 1] + 1;) ++run;
      const auto from = static_cast<std::int64_t>(i), count = static_cast<std::int64_t>(run);
      logits_.narrow(0, from, count)
          .copy_(next.logits.narrow(0, asked[i], count), /*non_blocking=*/true);
    }
  }
  const at::Tensor largest = pinned({rows}, at::kFloat), likeliest = pinned({rows}, at::kLong);
  largest.copy_(next.largest.narrow(0, 0, rows), /*non_blocking=*/true);
  likeliest.copy_(next.likeliest.narrow(0, 0, rows));  // waits for all of them
  for (std::size_t r = 0; r < whole.size(); ++r) {
    const float x = largest.const_data_ptr<float>()[r];
    likeliest_[r] = static_cast<text::TokenId>(likeliest.const_data_ptr<std::int64_t>()[r]);
    check(std::isfinite(x), "generate", "logits: expected finite numbers, found {} at id {}", x,
          likeliest_[r]);
  }
}

std::span<const float> LogitRows::row(std::size_t r) const {
  return {logits_.const_data_ptr<float>() + place_[r] * logits_.size(1),
          static_cast<std::size_t>(logits_.size(1))};
}

RecordedPasses::RecordedPasses(const models::Model& model, const models::PagedCache& cache,
                               Pages::Page spare)
    : model_(model), cache_(cache), spare_(spare) {}

RecordedPasses::Pass RecordedPasses::record(std::int64_t texts, std::int64_t pages) const {
  const at::NoGradGuard no_grad;
  const at::Device device = model_.placement.device;
  Pass pass;
  const std::int64_t bytes = Inputs::bytes(texts, pages);
  pass.here = pinned({bytes}, at::kByte);
  pass.there = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
  const Inputs in(pass.there, texts, pages);
  models::PagedTokens& t = pass.tokens;
  t.tokens.ids = in.ids;
  t.tokens.positions = in.positions;
  t.tokens.cu_seqlens = at::arange(texts + 1, at::TensorOptions().dtype(at::kInt).device(device));
  t.tokens.longest = 1;
  t.lengths = in.lengths;
  t.slots = in.slots;
  t.pages = in.pages;
  t.longest = pages * cache_.page_tokens;
  models::reserve_positions(model_, t.longest);
  pass.rope = model_.rope;
  pass.recording = std::make_unique<models::ModelRecording>(model_, [&] {
    pass.next = next_logits(models::logits(model_, models::forward_paged(model_, t, cache_)));
  });
  return pass;
}

NextLogits RecordedPasses::run(const std::vector<Text>& texts) {
  std::size_t most = 1;
  for (const Text& t : texts) most = std::max(most, t.pages.size());
  const std::int64_t rows = numbers_rounded_up(static_cast<std::int64_t>(texts.size()));
  const auto pages = std::max<std::int64_t>(8, static_cast<std::int64_t>(std::bit_ceil(most)));
  auto found = passes_.find({rows, pages});
  if (found == passes_.end())
    found = passes_.emplace(std::pair(rows, pages), record(rows, pages)).first;
  Pass& pass = found->second;

  const Inputs in(pass.here, rows, pages);
  for (std::int64_t r = 0; r < rows; ++r) {
    const bool real = r < static_cast<std::int64_t>(texts.size());
    const Text text = real ? texts[static_cast<std::size_t>(r)] : Text{0, 0, {&spare_, 1}, -1};
    in.ids.data_ptr<std::int64_t>()[r] = text.id;
    in.positions.data_ptr<std::int64_t>()[r] = text.position;
    in.lengths.data_ptr<std::int32_t>()[r] = static_cast<std::int32_t>(text.position + 1);
    in.slots.data_ptr<std::int32_t>()[r] = text.slot;
    std::copy(text.pages.begin(), text.pages.end(), in.pages.data_ptr<std::int32_t>() + r * pages);
  }
  pass.there.copy_(pass.here, /*non_blocking=*/true);
  pass.recording->replay();
  return pass.next;
}

}  // namespace qad::generate
