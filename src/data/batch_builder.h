// Gathers sequences, of one source or of several, into the flat tensors of a Batch.
#pragma once

#include <cstdint>
#include <vector>

#include "data/batches.h"

namespace qad::data {

class BatchBuilder {
 public:
  // `first_document` is added to the document indices that Batch::document reports.
  void add(const std::vector<Document>& documents, const Sequence& sequence,
           std::int64_t first_document);
  Batch finish();

 private:
  Batch batch_;
  std::vector<std::int64_t> ids_, labels_;
  std::vector<float> weights_;
  std::vector<std::int32_t> ends_;
};

}  // namespace qad::data
