// Packing, and tensors from packed sequences.
#include "data/batches.h"

#include <ATen/ops/empty.h>

#include "core/error.h"
#include "data/batch_builder.h"

namespace qad::data {

Batch Batch::to(at::Device device) const {
  Batch there = *this;
  there.tokens = tokens.to(device);
  there.labels = labels.to(device);
  there.weights = weights.to(device);
  return there;
}

std::vector<Sequence> pack(const std::vector<Document>& documents, std::int64_t seq_len,
                           bool pack) {
  check(seq_len > 0, "pack", "expected seq_len > 0, found {}", seq_len);
  std::vector<Sequence> sequences;
  std::int64_t room = 0;  // left in the last sequence
  for (std::size_t d = 0; d < documents.size(); ++d) {
    const auto size = static_cast<std::int64_t>(documents[d].ids.size());
    if (!pack) room = 0;
    for (std::int64_t begin = 0; begin < size;) {
      if (room == 0) {
        sequences.emplace_back();
        room = seq_len;
      }
      const std::int64_t length = std::min(room, size - begin);
      sequences.back().push_back({static_cast<std::int64_t>(d), begin, length});
      begin += length;
      room -= length;
    }
  }
  return sequences;
}

void BatchBuilder::add(const std::vector<Document>& documents, const Sequence& sequence,
                       std::int64_t first_document) {
  for (const Piece& piece : sequence) {
    const Document& d = documents.at(static_cast<std::size_t>(piece.document));
    const auto size = static_cast<std::int64_t>(d.ids.size());
    check(piece.begin >= 0 && piece.length > 0 && piece.begin + piece.length <= size, "make_batch",
          "piece [{}, +{}) of a document of {} tokens", piece.begin, piece.length, size);
    for (std::int64_t i = 0; i < piece.length; ++i) {
      const auto at = static_cast<std::size_t>(piece.begin + i);
      const bool last = at + 1 == d.ids.size();
      const float weight = !last && d.counts[at + 1] ? 1.0f : 0.0f;
      ids_.push_back(d.ids[at]);
      labels_.push_back(last ? 0 : d.ids[at + 1]);
      weights_.push_back(weight);
      batch_.targets += weight;
      batch_.document.push_back(first_document + piece.document);
    }
    ends_.push_back(static_cast<std::int32_t>(ids_.size()));
  }
}

Batch BatchBuilder::finish() {
  const auto tensor = [](const auto& values, at::ScalarType type) {
    at::Tensor t = at::empty({static_cast<std::int64_t>(values.size())}, type);
    std::copy(values.begin(), values.end(),
              static_cast<std::remove_cvref_t<decltype(values[0])>*>(t.data_ptr()));
    return t;
  };
  batch_.tokens = models::make_tokens(ids_, ends_);
  batch_.labels = tensor(labels_, at::kLong);
  batch_.weights = tensor(weights_, at::kFloat);
  return std::move(batch_);
}

Batch make_batch(const std::vector<Document>& documents,
                 const std::vector<const Sequence*>& sequences) {
  BatchBuilder builder;
  for (const Sequence* s : sequences) builder.add(documents, *s, 0);
  return builder.finish();
}

}  // namespace qad::data
