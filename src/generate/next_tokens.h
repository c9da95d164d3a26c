// Logits of the next token of many texts. On a GPU they stay there, and the CPU gets what it asks
// for; a pass of one token a text is recorded (models/recording.h), since its hundreds of kernels
// take less time than their launches.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "generate/pages.h"
#include "models/model.h"
#include "models/recording.h"
#include "text/tokenizer.h"

namespace qad::generate {

// Where they are: logits FP32 [R, V] and, on a GPU, the largest of each row and its id.
struct NextLogits {
  at::Tensor logits, largest, likeliest;
};
// `logits` with what is reckoned on their device.
NextLogits next_logits(const at::Tensor& logits);

// The same on the CPU: rows that are asked for whole, which sample() chooses from, and of others
// the likeliest id (Error where the largest logit is not finite). On a CPU all rows are there.
class LogitRows {
 public:
  // whole [R]: the rows asked for.
  LogitRows(const NextLogits& next, const std::vector<bool>& whole);
  bool has(std::size_t r) const { return place_[r] >= 0; }
  std::span<const float> row(std::size_t r) const;
  text::TokenId likeliest(std::size_t r) const { return likeliest_[r]; }  // of rows not there

 private:
  at::Tensor logits_;
  std::vector<std::int64_t> place_;  // of row r in logits_; -1: not there
  std::vector<text::TokenId> likeliest_;
};

// Recorded passes, for as many texts and pages as come. A number of texts that was not recorded is
// rounded up: what is beside the texts writes into the spare page.
class RecordedPasses {
 public:
  // Both must outlive it. No text holds `spare`.
  RecordedPasses(const models::Model& model, const models::PagedCache& cache, Pages::Page spare);

  struct Text {
    text::TokenId id;       // the new token
    std::int64_t position;  // its own
    std::span<const Pages::Page> pages;
    std::int32_t slot;  // of its states; below 0: of no text, and whatever reads them is NaN
  };
  // Valid until the next call.
  NextLogits run(const std::vector<Text>& texts);

 private:
  struct Pass {
    at::Tensor there, here;      // its inputs, as bytes: on the GPU, and where the CPU writes them
    models::PagedTokens tokens;  // views of the former
    models::RopeTables rope;     // which it reads, too
    NextLogits next;
    std::unique_ptr<models::ModelRecording> recording;
  };
  Pass record(std::int64_t texts, std::int64_t pages) const;

  const models::Model& model_;
  const models::PagedCache& cache_;
  Pages::Page spare_;
  std::map<std::pair<std::int64_t, std::int64_t>, Pass> passes_;  // by texts and pages of each
};

}  // namespace qad::generate
