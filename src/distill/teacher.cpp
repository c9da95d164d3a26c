// Forward passes of the frozen model.
#include "distill/teacher.h"

#include <ATen/ops/cat.h>

namespace qad::distill {

Teacher::Teacher(const models::Model* model, bool cache, const fs::path& folder)
    : model_(model), cache_(cache) {
  if (model != nullptr && cache && !folder.empty()) disk_.emplace(folder, *model);
}

at::Tensor Teacher::head_weight() const {
  return present() ? model_->head_weight() : at::Tensor();
}

at::Tensor Teacher::compute(const models::Tokens& tokens) const {
  if (!present()) return {};
  const at::NoGradGuard guard;
  return models::head_input(*model_, models::forward(*model_, tokens));
}

std::vector<at::Tensor> Teacher::tables(std::int64_t length) const {
  if (!present()) return {};
  models::reserve_positions(*model_, length);
  return {model_->rope.cos, model_->rope.sin};
}

at::Tensor Teacher::from_disk(const models::Tokens& tokens) const {
  if (auto kept = disk_->find(tokens)) return *kept;
  const at::Tensor states = compute(tokens);
  disk_->keep(tokens, states);
  return states;
}

at::Tensor Teacher::hidden(const data::Stream& stream, std::int64_t first_draw,
                           std::int64_t sequences, const data::Batch& batch) {
  if (!present()) return {};
  if (!cache_) return compute(batch.tokens);
  std::vector<at::Tensor> rows;
  for (std::int64_t k = first_draw; k < first_draw + sequences; ++k) {
    if (disk_) {
      rows.push_back(from_disk(stream.batch(k, 1).tokens));
      continue;
    }
    const auto draw = stream.draw(k);
    at::Tensor& cached = sequences_[{draw.source, draw.sequence}];
    if (!cached.defined()) cached = compute(stream.batch(k, 1).tokens);
    rows.push_back(cached);
  }
  return rows.size() == 1 ? rows.front() : at::cat(rows);
}

at::Tensor Teacher::validation_hidden(std::size_t i, const data::Batch& batch) {
  if (!present()) return {};
  if (!cache_) return compute(batch.tokens);
  if (disk_) return from_disk(batch.tokens);
  at::Tensor& cached = validation_[i];
  if (!cached.defined()) cached = compute(batch.tokens);
  return cached;
}

}  // namespace qad::distill
