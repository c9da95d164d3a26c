// The teacher's side of the loss: its final hidden states, computed without gradients, and cached
// when asked for.
//
// Cached states are FP32, as they are computed, so that a run with a cache equals the same run
// without to the bit where the teacher sees one sequence at a time. With a cache it always does: a
// matrix product may round a row otherwise when the batch around it differs, and what is cached
// must not depend on the company in which it was first met.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "data/batches.h"
#include "distill/teacher_cache.h"
#include "models/model.h"

namespace qad::distill {

class Teacher {
 public:
  // folder: where the cache is kept; empty: in memory.
  Teacher(const models::Model* model, bool cache, const fs::path& folder);

  bool present() const { return model_ != nullptr; }
  at::Tensor head_weight() const;  // [V, Ht]; undefined without a teacher, as are the others
  // Of these tokens, whether or not there is a cache.
  at::Tensor compute(const models::Tokens& tokens) const;
  // The rotary tables that it reads for documents of `length` tokens.
  std::vector<at::Tensor> tables(std::int64_t length) const;
  bool cached() const { return cache_; }
  // Of the tokens of `batch`, which is stream.batch(first_draw, sequences).
  at::Tensor hidden(const data::Stream& stream, std::int64_t first_draw, std::int64_t sequences,
                    const data::Batch& batch);
  // Of the i-th validation batch, the same whenever it is asked for.
  at::Tensor validation_hidden(std::size_t i, const data::Batch& batch);

 private:
  // From the folder, or computed and kept there.
  at::Tensor from_disk(const models::Tokens& tokens) const;

  const models::Model* model_;
  bool cache_;
  std::optional<TeacherCache> disk_;
  std::map<std::pair<std::size_t, std::size_t>, at::Tensor> sequences_;  // by source and sequence
  std::map<std::size_t, at::Tensor> validation_;
};

}  // namespace qad::distill
