// Packing and mixing: documents cut and laid into sequences of seq_len tokens, and an endless,
// seeded, resumable stream of batches from one or several data sets with weights.
#pragma once

#include <cstdint>
#include <vector>

#include "data/dataset.h"
#include "models/model.h"

namespace qad::data {

// One micro-batch as the model and the loss want it.
struct Batch {
  models::Tokens tokens;
  at::Tensor labels;   // int64 [T]: the next token of the same document (0 at its end), also where
                       // the document goes on in another sequence
  at::Tensor weights;  // float [T]: 1 where the label counts
  double targets = 0;  // sum of weights
  std::vector<std::int64_t>
      document;  // [T] index of the source document: standard errors over documents

  Batch to(at::Device device) const;  // the tensors; the rest is the host's
};

// A sequence holds pieces of documents (document index, first token, tokens); pieces do not see
// each other, and positions start at 0 in each.
struct Piece {
  std::int64_t document, begin, length;
};
using Sequence = std::vector<Piece>;

// Fills sequences of exactly seq_len tokens (the last may be shorter) in document order; documents
// longer than what is left are cut and go on in the next sequence. With pack = false no two
// documents share a sequence: one of more than seq_len tokens is cut into several sequences. Either
// way every token is in exactly one piece.
std::vector<Sequence> pack(const std::vector<Document>& documents, std::int64_t seq_len,
                           bool pack = true);

Batch make_batch(const std::vector<Document>& documents,
                 const std::vector<const Sequence*>& sequences);

struct Source {
  std::vector<Document> documents;
  std::vector<Sequence> sequences;
  double weight = 1;
};
std::int64_t token_count(const Source& source);  // of an epoch

// Draws sequences: a source by weight, then the next of a seeded shuffle of its sequences,
// reshuffled each epoch. The k-th draw depends on the seed and k alone, so a run resumes by its
// count of draws. Sources follow each other evenly: in any stretch of draws a source's share is its
// weight's, but for a few sequences.
class Stream {
 public:
  // Throws Error for a source without sequences and for weights that are not positive and finite.
  Stream(std::vector<Source> sources, std::uint64_t seed);
  struct Draw {
    std::size_t source, sequence;
  };
  Draw draw(std::int64_t k) const;  // 0 <= k < 2^31
  // `document` counts on from source to source, so that documents of different sources differ.
  Batch batch(std::int64_t first_draw, std::int64_t sequences) const;
  const std::vector<Source>& sources() const { return sources_; }
  std::uint64_t fingerprint() const;  // of everything that decides what is drawn

 private:
  std::vector<Source> sources_;
  std::uint64_t seed_;
  std::vector<std::uint64_t> bounds_;  // cumulative shares of 2^32; the last is 2^32
};

}  // namespace qad::data
