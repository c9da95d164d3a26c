// The teacher's hidden states on disk, exact, for later epochs and later runs: a file a sequence,
// named by its tokens, in a folder named by the teacher. Both are fingerprints of bits, so states
// of another model or text are never met, whatever data sets a run mixes.
#pragma once

#include <optional>

#include "core/file.h"
#include "models/model.h"

namespace qad::distill {

class TeacherCache {
 public:
  // Makes `folder`. Throws Error when it cannot.
  TeacherCache(const fs::path& folder, const models::Model& teacher);

  // [T, Ht] on the teacher's device; absent when the sequence was never kept. Throws Error for a
  // file that does not hold what its name says.
  std::optional<at::Tensor> find(const models::Tokens& tokens) const;
  void keep(const models::Tokens& tokens, const at::Tensor& hidden) const;

 private:
  fs::path file_of(const models::Tokens& tokens) const;

  fs::path folder_;
  models::Placement placement_;
};

}  // namespace qad::distill
